"""data_prep/caffe_proto.py: Caffe's messages without Caffe's library."""

import subprocess
import sys

import pytest

ALONE = "from data_prep import lmdb_io"


def run(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_sets_are_built_without_caffes_library():
    run("from data_prep import build_lmdb, verify_lmdb", "import sys",
        "assert 'caffe' not in sys.modules")


@pytest.mark.parametrize("first, second", [(ALONE, "import caffe"), ("import caffe", ALONE)])
def test_it_is_caffes_own_module(first, second):
    run(first, second, "from caffe.proto import caffe_pb2",
        "assert caffe_pb2 is lmdb_io.caffe_pb2 is caffe.io.caffe_pb2",
        "assert isinstance(caffe.NetSpec().to_proto(), caffe_pb2.NetParameter)")
