"""Long work whose parts stay on the disk, so that the same command resumes it when interrupted.

The parts of FILE are lines of JSON in `.FILE.partial` beside it, below a line with the settings of
the work. A run with the same settings finds them; one with other settings starts over. FILE appears
when the work is done, and the parts go.
"""

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path

from data_prep.common.errors import UserError

MARK = "predict.partial"


class Parts:
    """The parts of a file. earlier: those that an interrupted run with the same settings left."""

    def __init__(self, file, earlier):
        self.earlier, self._file = earlier, file

    def add(self, part):
        """Keep a part, a value for JSON."""
        self._file.write(_line(part))
        self._file.flush()

    def __iter__(self):
        """All parts, earlier ones first."""
        self._file.seek(0)
        next(self._file)
        return map(json.loads, self._file)


@contextmanager
def parts(path, settings):
    """Context manager: the Parts of the file `path`, which are removed when the context ends well.

    settings: dict for JSON, of all that the parts depend on. Raises UserError if another process is
    writing the file, or if the name of the parts is taken.
    """
    partial = partial_of(path)
    first = _line({"of": MARK, **settings})
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(partial, flags, 0o666)
    except OSError as error:
        raise UserError(f"{partial} can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {path}") from None
        content = file.read()
        if content and not content.startswith(_line({"of": MARK})[:-2]):
            raise UserError(f"{partial} exists, and is not of this command: move it")
        lines = content.split(b"\n")[:-1]  # a cut last line is dropped
        if not lines or lines[0] + b"\n" != first:
            lines = [first[:-1]]
        kept = b"".join(line + b"\n" for line in lines)
        file.seek(0)
        file.truncate()
        file.write(kept)
        file.flush()
        yield Parts(file, [json.loads(line) for line in lines[1:]])
        partial.unlink()


def partial_of(path):
    """Path of the parts of a file."""
    path = Path(path)
    return path.with_name(f".{path.name}.partial")


def _line(value):
    return json.dumps(value).encode() + b"\n"
