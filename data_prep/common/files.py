"""Files that commands write and read: each appears whole or not at all."""

import hashlib
import os
import secrets
from pathlib import Path

from data_prep.common.errors import UserError


def make_way(path):
    """Make the folder of `path`; UserError if `path` can't be written as a file.

    For commands that compute for minutes, before they begin.
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
    """Write `content` (bytes or str) to `path`, making its folder.

    The content is written beside `path`, brought to the disk and renamed, so that a reader finds
    the old file or the new one, also after a loss of power.
    """
    path = Path(path)
    make_way(path)
    beside = beside_of(path)
    try:
        with open_new(beside) as out:
            out.write(content.encode() if isinstance(content, str) else content)
        publish(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def beside_of(path):
    """A new name in the folder of `path`, which nobody can foresee, for its content until it is
    whole.
    """
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")


def open_new(path):
    """A binary file open for writing that did not exist. Follows no link: FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def publish(beside, path):
    """Rename the file `beside` to `path`, both in one folder, once its content is on the disk."""
    sync(beside)
    os.replace(beside, path)
    sync(Path(path).parent)


def sync(path):
    """Bring a file or the names in a folder to the disk."""
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
    """`path` as a Path if it is a file; else UserError. what: its kind, e.g. "the result"."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} not found (current folder: {Path.cwd()})")
    return path
