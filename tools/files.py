"""Files that commands leave behind: whole or not at all, and recognisable."""

import hashlib
import os
import tempfile
from pathlib import Path

from data_prep.cli import UserError


def make_way(path):
    """Make the folder of `path`; UserError if nothing can be written there.

    For commands that compute for minutes, before they begin.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} can't be written: {path.parent} is no folder") from None
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path} can't be written: the folder {path.parent} is read-only")


def write_whole(path, content):
    """Write `content` (bytes or str) to `path`: beside it first, then renamed. Makes the folder."""
    path = Path(path)
    make_way(path)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path, what):
    """`path` as a Path if it is a file; else UserError that says which `what` is missing."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} is not there")
    return path
