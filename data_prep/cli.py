"""What every command shares: the check of the environment, and errors a person can read."""

import errno
import importlib.util
import os
import sys

NEEDED = {
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "lmdb": "lmdb",
    "google.protobuf": "protobuf",
    "caffe": "Caffe's Python package",
}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a write: they name no file

# Caffe reads this when it is first imported: warnings and errors, not every layer of every net.
os.environ.setdefault("GLOG_minloglevel", "2")


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what, where, how."""


def _on_uncaught(kind, error, trace):
    """Ctrl-C while modules are still being imported is no fault either."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _on_uncaught


def _missing():
    """Names of the packages of NEEDED that this Python cannot find."""
    missing = []
    for module, package in NEEDED.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # the parent of a dotted name is missing
            found = None
        if found is None:
            missing.append(package)
    return missing


def command(main):
    """Run main() and end the process with its status.

    main() returns an int or None (0). UserError, and the file system's own refusals (disk full, no
    permission, a file where a folder should be), become one line on stderr and status 1; Ctrl-C
    becomes status 130; anything else keeps its traceback, because it is a fault of ours.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # file names hold what terminals can't show
    try:
        status = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        status = 1
    sys.exit(status)


if _missing():
    sys.exit(
        f"error: this Python ({sys.executable}) lacks {', '.join(_missing())}: "
        "run `make setup` once, "
        "then `. .venv/bin/activate` in each new shell"
    )
