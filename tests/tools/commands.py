"""Run a command of tools/ as a user does."""

import programs
from programs import ROOT

__all__ = ["ROOT", "assert_error", "run"]


def run(name, *arguments, **more):
    """tools/<name>.py in the repository root, as programs.run starts it."""
    return programs.run(f"tools/{name}.py", *arguments, **more)


def assert_error(done, says):
    """The command ended with one sentence on stderr that contains `says`."""
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
