"""A command that gets a signal at a moment of its own work: not of a clock, nor of another process
that looks in from time to time, and that a busy machine may keep until all is over.

    stopped.py SIGNAL AFTER NUMBER COMMAND ARGUMENT...

COMMAND is a path in the repository. AFTER is a function such as
`data_prep.checkpoint:Keeper._keep`, whose NUMBERth call raises the signal when it is over; or
`audit`: the NUMBERth event that Python's audit hooks see (files opened, renamed, removed ...). A
NUMBER of 0 counts them: the last line of output is their number.
"""

import importlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stopped(command, after, number, how=signal.SIGKILL):
    """The finished command, with what it printed, after a signal at a moment: see above."""
    words = [__file__, int(how), after, number, *command]
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )


def events(command):
    """How many events of the audit hooks a whole command has."""
    done = stopped(command, "audit", 0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


class Moment:
    """Counts calls, from any thread, and raises the signal at one of them."""

    def __init__(self, number, how):
        self.seen, self._number, self._how = 0, number, how
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self.seen += 1
            now = self.seen == self._number
        if now:
            os.kill(os.getpid(), self._how)


def after(target, moment):
    """Let `moment` be called at the end of every call of the function."""
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    def followed(*arguments, **options):
        result = function(*arguments, **options)
        moment()
        return result

    setattr(owner, name, followed)


def main():
    how, target, number, command, *arguments = sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    # a job that a script starts in the background inherits an ignored Ctrl-C; a user's does not
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moment = Moment(int(number), int(how))
    if target == "audit":
        sys.addaudithook(
            lambda event, _: moment() if event.startswith(("open", "os.", "shutil.")) else None
        )
    else:
        after(target, moment)
    sys.argv = [command, *arguments]
    try:
        runpy.run_path(str(ROOT / command), run_name="__main__")
    finally:
        if not int(number):
            print(moment.seen)


if __name__ == "__main__":
    main()
