"""Finds the caffe binary; runs it and returns its status and last message."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from data_prep.common.errors import UserError


def find():
    """Path of the caffe on PATH, else of the one beside this Python: .venv need not be activated.

    None where there is neither.
    """
    return shutil.which("caffe") or shutil.which("caffe", path=Path(sys.executable).parent)


def path():
    """The path that `find` returns; raises UserError where there is no caffe."""
    found = find()
    if found is None:
        raise UserError(
            "no caffe on PATH or beside this Python: run `make setup`, then `. .venv/bin/activate`"
        )
    return found


def run(*arguments):
    """(exit status, last message) of the caffe binary.

    It runs in an empty folder, so that no package there helps its imports.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"}
        done = subprocess.run(
            [path(), *arguments],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    logged = re.findall(r"^[EF]\d{4}.*?\] (.*)", done.stdout, re.MULTILINE)
    lines = done.stdout.strip().splitlines()
    return done.returncode, logged[-1] if logged else lines[-1] if lines else "no message"
