"""data_prep/caffe_proto.py: Caffe's messages without Caffe's library."""

import os
import subprocess
import sys

import pytest

ALONE = "from data_prep import lmdb_io"


def run(*lines, **variables):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stdout


def test_data_sets_are_built_without_caffes_library():
    run(
        "from data_prep import build_lmdb, verify_lmdb",
        "import sys",
        "assert 'caffe' not in sys.modules",
    )


@pytest.mark.parametrize("protobuf", ["upb", "python"])
@pytest.mark.parametrize("first, second", [(ALONE, "import caffe"), ("import caffe", ALONE)])
def test_it_is_caffes_own_module(first, second, protobuf):
    run(
        first,
        second,
        "same = lmdb_io.caffe_pb2",
        "assert caffe.proto.caffe_pb2 is same",
        "from caffe.proto import caffe_pb2",
        "assert caffe_pb2 is caffe.io.caffe_pb2 is same",
        "import caffe.proto.caffe_pb2 as again",
        "assert again is same",
        "assert isinstance(caffe.NetSpec().to_proto(), caffe_pb2.NetParameter)",
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=protobuf,
    )
