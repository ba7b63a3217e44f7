"""pycaffe, loaded with its log limited to warnings: glog reads the level when it is loaded.

Every module of tools imports Caffe from here. GLOG_minloglevel in the environment overrides it.
"""

import os

os.environ.setdefault("GLOG_minloglevel", "2")

import caffe  # noqa: E402
from caffe import TEST, TRAIN, NetSpec, layers, params  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402

__all__ = ["TEST", "TRAIN", "NetSpec", "caffe", "caffe_pb2", "layers", "params"]
