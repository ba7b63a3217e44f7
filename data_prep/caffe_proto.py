"""Caffe's protobuf messages, `caffe_pb2`, without the rest of Caffe's Python package.

`from caffe.proto import caffe_pb2` also loads Caffe's library and the 150 that it is linked to: a
tenth of a second, which many a command does not take for its work. Here the same module is loaded
alone; where `caffe` is imported too, before or after, that statement gives this very module.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "caffe.proto.caffe_pb2"


def _load():
    package = importlib.util.find_spec("caffe").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(NAME, Path(package) / "proto" / "caffe_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


caffe_pb2 = sys.modules.get(NAME) or sys.modules.setdefault(NAME, _load())
