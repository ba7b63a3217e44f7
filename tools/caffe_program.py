"""Runs the caffe binary and returns its status and last message."""

import os
import re
import subprocess
import tempfile


def run(*arguments):
    """(exit status, last message) of the caffe binary.

    It runs in an empty folder, so that no package there helps its imports.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"}
        done = subprocess.run(
            ["caffe", *arguments],
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
