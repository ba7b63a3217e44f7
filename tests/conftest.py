"""What all tests share: the environment of an activated .venv, and quiet Caffe logs."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Without activation (python -m pytest), `caffe` and the python3 that it embeds are those beside
# this interpreter. Not resolved: .venv/bin/python is a link to the system's interpreter.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
os.environ.setdefault("GLOG_minloglevel", "2")  # read when caffe is first imported

# Prototxts name their files from here.
os.chdir(ROOT)


@pytest.fixture(scope="session", autouse=True)
def log_files(tmp_path_factory):
    """Caffe's programs leave log files in the temporary folder, unless another one is set."""
    os.environ["GLOG_log_dir"] = str(tmp_path_factory.mktemp("caffe_logs"))
