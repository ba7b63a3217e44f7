"""Keeps two runs of one study apart."""

import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.files import make_way

PATIENCE = 15  # seconds in which the commands of a killed run have ended


@contextmanager
def held(path):
    """Context manager: descriptor of the locked file, to be inherited by the commands of the run.

    They hold the lock until the last of them has ended. Raises UserError where another run does.
    """
    make_way(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        end = time.monotonic() + PATIENCE
        while not _locked(descriptor):
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            if Path("/proc", holder or "none").is_dir() or time.monotonic() > end:
                raise UserError(
                    f"another run of this study is going on: process {holder or '?'}, which holds "
                    f"{path}"
                )
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
