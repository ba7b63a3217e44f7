"""The programs that must agree on an exported model, each reading the files of the folder.

A reader has
    name                   for people
    needed                 whether an export fails if the reader can't read its file (Unread)
    compute(batch, names)  {name: float32, N x ...}
    trace(batch, traced)   yields (LayerParameter, blob, array) of the layers that it can show, in
                           the order of the net
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime

from data_prep.opencv import cv2
from tools import caffe_errors, solver_net
from tools.onnx_export import build
from tools.recognition.engines import OnnxEngine
from tools.recognition.model import NET, ONNX, WEIGHTS

logging = cv2.utils.logging


@dataclass(frozen=True)
class Traced:
    """What a comparison layer by layer needs.

    own    NetParameter as build.without_in_place gives it, with the deploy file's layers
    model  onnx.ModelProto of it, with every blob as an output
    """

    own: Any
    model: Any

    @property
    def blobs(self):
        """[(LayerParameter, name of its first top)], in the order of the net."""
        return [(layer, layer.top[0]) for layer in self.own.layer if layer.top][1:]

    @property
    def outputs(self):
        return [output.name for output in self.model.graph.output]


class Unread(Exception):
    """The reader lacks something that the file needs; the message says what."""


class OnnxRuntime:
    name, needed = f"ONNX Runtime {onnxruntime.__version__}", True

    def __init__(self, folder, input):
        self._engine, self._input = OnnxEngine(folder / ONNX, input), input

    def compute(self, batch, names):
        return self._engine.compute(batch, names)

    def trace(self, batch, traced):
        with TemporaryDirectory() as folder:
            path = Path(folder, ONNX)
            path.write_bytes(build.content(traced.model))
            found = OnnxEngine(path, self._input).compute(batch, traced.outputs)
        for layer, blob in traced.blobs:
            if blob in found:
                yield layer, blob, found[blob]


class OpenCv:
    """OpenCV's dnn on a net that `load` returns."""

    def __init__(self, load, input):
        self._input = input
        with _opencv():
            self._net = load()

    def compute(self, batch, names):
        with _opencv():
            self._net.setInput(batch, self._input)
            return dict(zip(names, self._net.forward(list(names))))


class OpenCvOnnx(OpenCv):
    name, needed = f"OpenCV {cv2.__version__} ({ONNX})", True

    def __init__(self, folder, input):
        super().__init__(lambda: cv2.dnn.readNetFromONNX(str(folder / ONNX)), input)

    def trace(self, batch, traced):
        content = np.frombuffer(build.content(traced.model), np.uint8)
        with _opencv():
            net = cv2.dnn.readNetFromONNX(content)
            net.setInput(batch, self._input)
            found = dict(zip(traced.outputs, net.forward(traced.outputs)))
        for layer, blob in traced.blobs:
            if blob in found:
                yield layer, blob, found[blob]


class OpenCvCaffe(OpenCv):
    name, needed = f"OpenCV {cv2.__version__} ({NET})", False  # it has no Python layers

    def __init__(self, folder, input):
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise Unread("OpenCV 5 reads no Caffe files")
        paths = str(folder / NET), str(folder / WEIGHTS)
        super().__init__(lambda: cv2.dnn.readNetFromCaffe(*paths), input)

    def trace(self, batch, traced):
        known = set(self._net.getLayerNames())
        with _opencv():
            self._net.setInput(batch, self._input)
            for layer, blob in traced.blobs:
                if layer.name in known and len(layer.top) == 1:
                    yield layer, blob, self._net.forward(layer.name)


READERS = {"onnxruntime": OnnxRuntime, "opencv": OpenCvOnnx, "opencv-caffe": OpenCvCaffe}


def caffe_trace(own, weights, batch):
    """{blob: float32} of every blob of a net as build.without_in_place gives it, in Caffe."""
    net = solver_net.load_net(own, NET, weights, "export again")
    with caffe_errors.refusals(f"Caffe can't compute {NET}"):
        blob = net.blobs[net.inputs[0]]
        blob.reshape(*batch.shape)
        net.reshape()
        blob.data[...] = batch
        net.forward()
    return {name: blob.data.copy() for name, blob in net.blobs.items()}


@contextmanager
def _opencv():
    """OpenCV's log is silent, and its errors are raised as Unread."""
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    except cv2.error as error:
        raise Unread(" ".join(str(error.err or error).split())) from None
    finally:
        logging.setLogLevel(level)
