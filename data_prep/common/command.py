"""Runs a command's main(): checks the environment first and reports errors in one line."""

import importlib.util
import os
import sys

from data_prep.common.errors import WRITE_FAILURES, UserError

NEEDED = {  # module: package that provides it
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "lmdb": "lmdb",
    "google.protobuf": "protobuf",
    "caffe": "Caffe's Python package",
}


def command(main):
    """Run main() and end the process with its status.

    main() returns an int or None (0). UserError and errors of the file system (disk full, no
    permission, a file in place of a folder) become one line on stderr and status 1; Ctrl-C becomes
    one line and status 130. Any other exception is a bug and keeps its traceback.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # terminals can't show every file name
    try:
        _check_packages()
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of the output, e.g. head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if error.filename is None and error.errno not in WRITE_FAILURES:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _check_packages():
    """Raises UserError that names the packages of NEEDED which this Python can't find."""
    missing = [package for module, package in NEEDED.items() if not _found(module)]
    if missing:
        raise UserError(
            f"this Python ({sys.executable}) lacks {', '.join(missing)}: run `make setup` once, "
            "then `. .venv/bin/activate` in each new shell"
        )


def _found(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is missing
        return False
