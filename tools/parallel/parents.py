"""Makes a process end with the one that started it (Linux)."""

import ctypes
import os
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl: the signal that this process gets when its parent ends


def signal_at_parents_end(number):
    """Have the signal sent to this process when its parent ends, or now if it has ended."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def name_of_parent():
    """The name of the parent's program, at most 15 characters; "" where it can't be read."""
    return _name(os.getppid())


def children(pid):
    """{process id: name} of the processes that `pid` has started and that have not ended."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        state, parent = fields[0], int(fields[1])
        if parent == pid and state != "Z":
            found[int(folder.name)] = _name(folder.name)
    return found


def _name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
