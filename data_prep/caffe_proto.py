"""Caffe's protobuf messages, `caffe_pb2`, without the rest of Caffe's Python package.

`from caffe.proto import caffe_pb2` also loads Caffe's library and the 150 libraries it links to,
which takes a tenth of a second: longer than many commands run. This module loads caffe_pb2 alone. A
later or earlier `import caffe` shares the same module object.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

PACKAGE = "caffe.proto"
NAME = f"{PACKAGE}.caffe_pb2"


class _Finder:
    """Makes a later `import caffe` reuse the module that was loaded here."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        module.caffe_pb2 = sys.modules[NAME]


def _load():
    caffe = importlib.util.find_spec("caffe").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(NAME, Path(caffe) / "proto" / "caffe_pb2.py")
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    sys.meta_path.insert(0, _Finder)
    spec.loader.exec_module(module)
    return module


caffe_pb2 = sys.modules.get(NAME) or _load()
