"""Run a command of tools/ as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(name, *arguments, **environment):
    """tools/<name>.py in the repository root; what it prints as text in .stdout and .stderr."""
    return subprocess.run(
        [sys.executable, f"tools/{name}.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def assert_error(done, says):
    """The command ended with one sentence on stderr that contains `says`."""
    assert done.returncode == 1 and says in done.stderr, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
