"""One engine of tools/bench.py step --peers, in a process of its own.

python -m tools.benchmarks.engines SPECIFICATION, a JSON object with the fields of Specification.
It reads a command per line of stdin and answers with a JSON object per line of stdout:
    versions       {"version", "blas", "threading"}: of the engine, what multiplies its matrices,
                   and how that runs its threads, where it says so
    values         {"values"}: what shows that engines do equal work, see Process.values
    turn SECONDS   {"seconds", "cores", "memory"}: of each step of a turn that lasts this long, at
                   least one; CPU time by time; bytes, the peak
It loads neither more of Caffe nor more threads than the engine itself does.
"""

import importlib.util
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from data_prep.common import files, prototxt

PROOF_STEPS = 2  # the loss after an update shows the update
PROOF_IMAGES = 4  # at most: enough to tell nets apart


@dataclass(frozen=True)
class Specification:
    """What a process measures.

    engine    a key of ENGINES
    work      "train": forward, backward and update;  "infer": forward up to the scores
    folder    of the net: see peer_nets
    batch     images
    threads   of the engine
    packages  a folder with more Python packages, or ""
    """

    engine: str
    work: str
    folder: str
    batch: int
    threads: int
    packages: str = ""


class Files:
    """A net's folder as messages and arrays."""

    def __init__(self, folder, messages):
        self._folder, self._messages = Path(folder), messages
        with np.load(self._folder / "values.npz") as arrays:
            self._values = dict(arrays)

    def path(self, name):
        return str(self._folder / name)

    def net(self, work, batch, dropout=True):
        """NetParameter for `batch` images; without dropout its layers keep everything."""
        net = self._read(f"{work}.prototxt", self._messages.NetParameter())
        for layer in net.layer:
            if layer.type == "Input":
                layer.input_param.shape[0].dim[0] = batch
            elif layer.type == "Dropout" and not dropout:
                layer.dropout_param.dropout_ratio = 0
        net.state.phase = self._messages.TRAIN if work == "train" else self._messages.TEST
        return net

    def solver(self):
        return self._read("solver.prototxt", self._messages.SolverParameter())

    def images(self, batch):
        return self._values["data"][:batch]

    def labels(self, batch):
        return self._values["label"][:batch]

    def weights(self, layers):
        """{layer: [arrays]} of those of these names that have weights."""
        found, wanted = {}, set(layers)
        for key, array in self._values.items():  # in the order in which they were written
            layer = key.rpartition("/")[0]
            if layer in wanted:
                found.setdefault(layer, []).append(array)
        return found

    def _read(self, name, message):
        text = (self._folder / name).read_text(encoding="utf-8")
        return text_format.Parse(text, message)


def caffe_messages():
    """caffe_pb2 without Caffe, whose libraries would be loaded with it."""
    package = importlib.util.find_spec("caffe")
    path = Path(package.origin).parent / "proto/caffe_pb2.py"
    found = importlib.util.spec_from_file_location("caffe_messages", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Caffe:
    """The Caffe that PYTHONPATH leads to."""

    def __init__(self, specification):
        from tools.pycaffe import caffe, caffe_pb2

        self._caffe = caffe
        self._files = Files(specification.folder, caffe_pb2)
        caffe.set_mode_cpu()

    def versions(self):
        """The BLAS is the one that is loaded, whatever Caffe was linked with."""
        from threadpoolctl import threadpool_info

        found = {"version": _built(_loaded("libcaffe.so"))}
        for library in threadpool_info():
            path = library["filepath"]
            if library["user_api"] == "blas" and "numpy.libs" not in path:
                found["blas"] = (
                    " ".join(
                        str(library.get(key, ""))
                        for key in ("internal_api", "version", "threading_layer", "architecture")
                    )
                    + f" ({path})"
                )
                found["threading"] = library.get("threading_layer", "")
        return found

    def training(self, batch, dropout):
        """(step, loss): functions; the loss is that before the step's update."""
        solver = self._files.solver()
        solver.net_param.CopyFrom(self._files.net("train", batch, dropout))
        with prototxt.as_file(solver) as path:
            running = self._caffe.SGDSolver(path)
        self._fill(running.net, batch)
        losses = {
            layer.top[0]: layer.loss_weight[0] if layer.loss_weight else 1
            for layer in solver.net_param.layer
            if layer.type == "SoftmaxWithLoss"
        }

        def loss():
            return sum(
                float(running.net.blobs[blob].data) * weight for blob, weight in losses.items()
            )

        return lambda: running.step(1), loss

    def inference(self, batch):
        """(step, scores): functions."""
        proto = self._files.net("infer", batch)
        with prototxt.as_file(proto) as path:
            net = self._caffe.Net(path, self._caffe.TEST)
        self._fill(net, batch)
        last = proto.layer[-1].top[0]
        return lambda: net._forward(0, len(net.layers) - 1), lambda: net.blobs[last].data

    def _fill(self, net, batch):
        for name, arrays in self._files.weights(net.params).items():
            for blob, array in zip(net.params[name], arrays):
                blob.data[...] = array
        net.blobs["data"].data[...] = self._files.images(batch)
        if "label" in net.blobs:
            net.blobs["label"].data[...] = self._files.labels(batch)


def _loaded(name):
    """Path of the shared library `name` that this process uses."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        paths = [Path(line.split(maxsplit=5)[-1].strip()) for line in lines]
    return next(path for path in paths if path.name.startswith(name))


def _built(library):
    """A libcaffe and what its build is, by the file BUILD that docker/build_caffe.sh leaves."""
    build = library.parents[1] / "BUILD"
    lines = build.read_text(encoding="utf-8").splitlines() if build.is_file() else []
    values = dict(line.split(": ", 1) for line in lines if ": " in line)
    kind = "stock" if values.get("stock") else "patched"
    name = f"{kind} {values['version']}" if "version" in values else "of an unknown build"
    return f"{name} ({library}, SHA-256 {files.sha256(library)[:12]})"


class Torch:
    """PyTorch without compilation, as a model written for it runs."""

    channels_last = False

    def __init__(self, specification):
        import torch

        self._torch = torch
        torch.set_num_threads(specification.threads)
        self._files = Files(specification.folder, caffe_messages())
        self._format = torch.channels_last if self.channels_last else torch.contiguous_format

    def versions(self):
        lines = self._torch.__config__.show().splitlines()
        named = [line.strip(" -").partition(" for ")[0] for line in lines]
        blas = [line for line in named if "Math Kernel" in line or "MKL-DNN" in line]
        return {"version": self._torch.__version__, "blas": ", ".join(blas)}

    def training(self, batch, dropout):
        from tools.torch_net import TorchNet

        proto, solver = self._files.net("train", batch, dropout), self._files.solver()
        net = TorchNet(proto, self._weights(proto), "cpu").to(self._format)
        optimizer = self._torch.optim.SGD(
            list(_groups(net, proto, solver)), momentum=solver.momentum, fused=True
        )
        data, label = self._images(batch), self._torch.tensor(self._files.labels(batch))
        found = None

        def step():
            nonlocal found
            optimizer.zero_grad(set_to_none=True)
            found = net(data, label)
            found.backward()
            optimizer.step()

        return step, lambda: found.item()

    def inference(self, batch):
        from tools.torch_net import TorchNet

        proto = self._files.net("infer", batch)
        net = TorchNet(proto, self._weights(proto), "cpu", train=False).to(self._format)
        data, found = self._images(batch), None

        def step():
            nonlocal found
            with self._torch.inference_mode():
                found = net.scores(data)

        return step, lambda: found.numpy()

    def _weights(self, proto):
        return self._files.weights(layer.name for layer in proto.layer)

    def _images(self, batch):
        images = self._torch.tensor(self._files.images(batch))
        return images.contiguous(memory_format=self._format)


class TorchChannelsLast(Torch):
    """The same, images and filters stored height x width x channels."""

    channels_last = True


def _groups(net, proto, solver):
    """Groups of weights for torch.optim: each with the layer's own rates, as Caffe has them."""
    for layer in proto.layer:
        for i, weights in enumerate(net.parameters.get(layer.name, [])):
            param = layer.param[i] if i < len(layer.param) else None
            rate = param.lr_mult if param and param.HasField("lr_mult") else 1
            decay = param.decay_mult if param and param.HasField("decay_mult") else 1
            if rate == 0:
                weights.requires_grad_(False)
                continue
            yield {
                "params": [weights],
                "lr": solver.base_lr * rate,
                "weight_decay": solver.weight_decay * decay,
            }


class OpenCv:
    """OpenCV's dnn module on Caffe's own files."""

    def __init__(self, specification):
        from data_prep.opencv import cv2

        self._cv2 = cv2
        cv2.setNumThreads(specification.threads)
        self._files = Files(specification.folder, caffe_messages())

    def versions(self):
        return {"version": self._cv2.__version__, "blas": "its own"}

    def inference(self, batch):
        with prototxt.as_file(self._files.net("infer", batch)) as path:
            net = self._cv2.dnn.readNetFromCaffe(path, self._files.path("net.caffemodel"))
        data, found = self._files.images(batch), None

        def step():
            nonlocal found
            net.setInput(data)
            found = net.forward()

        return step, lambda: found


class OnnxRuntime:
    """ONNX Runtime on the net as tools/export.py writes it."""

    def __init__(self, specification):
        import onnxruntime

        self._runtime, self._threads = onnxruntime, specification.threads
        self._files = Files(specification.folder, caffe_messages())

    def versions(self):
        return {"version": self._runtime.__version__, "blas": "its own (MLAS)"}

    def inference(self, batch):
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        session = self._runtime.InferenceSession(
            self._files.path("net.onnx"), options, providers=["CPUExecutionProvider"]
        )
        name, found = session.get_inputs()[0].name, None
        data = self._files.images(batch)

        def step():
            nonlocal found
            (found,) = session.run(None, {name: data})

        return step, lambda: found


CAFFE, TORCH, TORCH_LAST, ONNX, OPENCV = "caffe", "torch", "torch_last", "onnxruntime", "opencv"
ENGINES = {
    CAFFE: Caffe,
    TORCH: Torch,
    TORCH_LAST: TorchChannelsLast,
    ONNX: OnnxRuntime,
    OPENCV: OpenCv,
}


class Process:
    """Answers the commands. Makes what it times at the first turn."""

    def __init__(self, specification):
        self._specification = specification
        self._engine = ENGINES[specification.engine](specification)
        self._step = None

    def versions(self):
        return self._engine.versions()

    def values(self):
        """Losses of steps without dropout, or the scores of the net that is timed."""
        if self._specification.work == "train":
            batch = min(self._specification.batch, PROOF_IMAGES)
            step, loss = self._engine.training(batch, dropout=False)
            values = []
            for _ in range(PROOF_STEPS):
                step()
                values.append(loss())
        else:
            step, scores = self._engine.inference(self._specification.batch)
            step()
            self._step, values = step, np.array(scores(), dtype=np.float64).ravel().tolist()
        return {"values": values}

    def turn(self, seconds):
        if self._step is None:
            self._step, _ = self._engine.training(self._specification.batch, dropout=True)
        times, start, used = [], time.perf_counter(), time.process_time()
        while not times or time.perf_counter() - start < float(seconds):
            before = time.perf_counter()
            self._step()
            times.append(time.perf_counter() - before)
        cores = (time.process_time() - used) / (time.perf_counter() - start)
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"seconds": times, "cores": cores, "memory": memory}


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an engine prints is no answer
    specification = Specification(**json.loads(sys.argv[1]))
    if specification.packages:
        sys.path.append(specification.packages)
    process = Process(specification)
    for line in sys.stdin:
        command, *arguments = line.split()
        answers.write(json.dumps(getattr(process, command)(*arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
