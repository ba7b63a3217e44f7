"""Reading and writing of files; a written file appears complete or not at all."""

import hashlib
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

from data_prep.common.errors import UserError


def make_way(path):
    """Make the folder of `path`; raises UserError if `path` can't be written as a file.

    Commands that compute for minutes call it before they begin.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} can't be written: {path.parent} is not a folder") from None
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} can't be written: the folder {path.parent} is read-only")


def write_whole(path, content):
    """Write `content` (bytes or str) to `path`, making its folder, as `appearing` does."""
    with appearing(path) as out:
        out.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def appearing(path):
    """Context manager: a binary file to write, which becomes `path` when the context ends well.

    The content is written to a temporary file beside `path`, synced and renamed, so that a reader
    finds either the old file or the new one, even after a power failure. After an exception the old
    file stays.
    """
    path = Path(path)
    make_way(path)
    beside = beside_of(path)
    try:
        with open_new(beside) as out:
            yield out
        publish(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def beside_of(path):
    """An unpredictable temporary name in the folder of `path`, for its incomplete content."""
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")


def open_new(path):
    """Create a binary file and open it for writing. Raises FileExistsError, also for a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def publish(beside, path):
    """Sync the file `beside` and rename it to `path`, in the same folder."""
    sync(beside)
    os.replace(beside, path)
    sync(Path(path).parent)


def sync(path):
    """Sync a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path, what):
    """`path` as a Path; raises UserError unless it is a file. what: its kind, e.g. "the result"."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} not found (current folder: {Path.cwd()})")
    return path


def check_replaceable(folder, shown):
    """Raises UserError unless `folder` is one that a command can replace, whatever it holds.

    folder: Path with links resolved, which exists. shown: the name that the user gave.
    """
    if folder.is_symlink():
        raise UserError(f"{shown} is a link that leads to itself: choose another --out")
    if not folder.is_dir():
        raise UserError(f"{shown} is not a folder: choose another --out")
    if os.path.ismount(folder):
        raise UserError(
            f"{shown} is a mount point, which can't be replaced: name a folder inside it"
        )
    if Path(os.path.realpath(".")).is_relative_to(folder):
        raise UserError(f"{shown} is the current folder and would be replaced: leave it first")
