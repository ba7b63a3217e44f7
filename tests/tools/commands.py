"""Run a command of tools/ as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(name, *arguments, **environment):
    """tools/<name>.py from the repository root; output as text in .stdout, .stderr, status in .returncode."""
    return subprocess.run([sys.executable, f"tools/{name}.py", *map(str, arguments)], cwd=ROOT, text=True,
                          env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment, capture_output=True)


def assert_error(done, says):
    """The command ended with one sentence on stderr that contains `says`."""
    assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
