"""What computes a net: Caffe, or ONNX Runtime.

An engine has
    width(name)             number of values per image of an output
    compute(batch, names)   {name: float32, N x ...} of a batch, float32, N x 3 x height x width
"""

from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError
from tools import caffe_errors, solver_net

ENGINES = ("caffe", "onnx")


class CaffeEngine:
    """A net with one input, in Caffe, in the mode (CPU or GPU) that is set.

    Caffe keeps the mode per thread: an engine works in the thread that made it.

    message: caffe_pb2.NetParameter. file: where it was read, for messages.
    """

    def __init__(self, message, file, weights, input="data"):
        self._file = file
        self._net = solver_net.load_net(message, file, weights, "name those of its training")
        if list(self._net.inputs) != [input]:
            raise UserError(f"net {file} has the inputs {list(self._net.inputs)}, not {input}")
        self._input = self._net.blobs[input]

    def width(self, name):
        return int(np.prod(self._blob(name).shape[1:]))

    def shape(self, name):
        """Shape of a blob of one image."""
        return tuple(self._blob(name).shape[1:])

    def _blob(self, name):
        if name not in self._net.blobs:
            raise UserError(
                f"net {self._file} has no blob {name!r}; it has {', '.join(self._net.blobs)}"
            )
        return self._net.blobs[name]

    def compute(self, batch, names, whole=False):
        """whole: in one call of Caffe, which no other thread interrupts."""
        with caffe_errors.refusals(f"Caffe can't compute {self._file}"):
            if tuple(self._input.shape) != batch.shape:
                self._input.reshape(*batch.shape)
                self._net.reshape()
            self._input.data[...] = batch
            last = len(self._net.layers) - 1
            # pycaffe holds the interpreter's lock within a call: layer by layer, the threads that
            # decode the next images get it in between.
            parts = [(0, last)] if whole else [(layer, layer) for layer in range(last + 1)]
            for part in parts:
                self._net._forward(*part)
            return {name: self._blob(name).data.copy() for name in names}


class OnnxEngine:
    """A model.onnx in ONNX Runtime, on the CPU. threads: of one computation; 0: all processors."""

    def __init__(self, path, input="data", threads=0):
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                "this Python has no onnxruntime: run `make setup`, or choose --engine caffe"
            ) from None
        files.existing(path, "model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; they are raised anyway
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many classes, without a common one
            reason = str(error).splitlines()[0]
            raise UserError(f"ONNX Runtime can't use {path}: {reason}") from None
        names = [one.name for one in self._session.get_inputs()]
        if names != [input]:
            raise UserError(f"{path} has the inputs {', '.join(names)}, not {input}")
        self._path, self._input = Path(path), input
        self._widths = {one.name: one.shape[1:] for one in self._session.get_outputs()}

    def width(self, name):
        if name not in self._widths:
            raise UserError(f"{self._path} has no output {name!r}: {', '.join(self._widths)}")
        return int(np.prod([side for side in self._widths[name]]))

    def compute(self, batch, names):
        try:
            found = self._session.run(list(names), {self._input: batch})
        except Exception as error:  # of many classes, without a common one
            reason = str(error).splitlines()[0]
            raise UserError(f"ONNX Runtime can't compute {self._path}: {reason}") from None
        return dict(zip(names, found))
