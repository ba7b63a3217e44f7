"""Keeps two runs of one study apart."""

import fcntl
import os
import time
from contextlib import contextmanager

from data_prep.common.errors import UserError
from data_prep.common.files import make_way

PATIENCE = 15  # seconds in which the trainings of a killed run have ended


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
            if time.monotonic() > end:
                raise UserError(f"another run of this study is going on (it holds {path})")
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
