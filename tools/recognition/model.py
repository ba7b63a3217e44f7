"""A net that can answer: its engine, its preprocessing, its label tree."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from tools.recognition import labels, preprocessing as pixels, trained
from tools.recognition.engines import ENGINES, CaffeEngine, OnnxEngine
from tools.recognition.preprocessing import Preprocessing

NET, WEIGHTS, ONNX = "deploy.prototxt", "weights.caffemodel", "model.onnx"  # in an exported folder


@dataclass(frozen=True)
class Model:
    """A trained net with all that a prediction needs.

    hierarchy      the label tree
    preprocessing  of photographs
    outputs        {level, 0 = fine: output of its classifier's probabilities}; levels without
                   classifier are absent
    engine         of tools.recognition.engines
    source         what the weights are, for people
    feature        blob of the feature; None: unknown
    """

    hierarchy: Hierarchy
    preprocessing: Preprocessing
    outputs: dict
    engine: object
    source: str
    feature: str | None = None

    def __post_init__(self):
        for level, name in self.outputs.items():
            wide, classes = self.engine.width(name), self.hierarchy.sizes[level]
            if wide != classes:
                raise UserError(
                    f"{name} of {self.source} has {wide} classes, the level "
                    f"{self.hierarchy.levels[level]} has {classes}: the net is for another data set"
                )

    def probabilities(self, batch, crops=1):
        """{level: float32, N x classes; rows sum to 1} of the levels that have a classifier.

        batch: float32, (N * crops) x 3 x height x width, the `crops` parts of an image (as
        Preprocessing.blob makes them) one after the other; their probabilities are averaged.
        Raises UserError if a probability is not finite.
        """
        found = self.engine.compute(batch, list(self.outputs.values()))
        means = {}
        for level, name in self.outputs.items():
            rows = found[name].reshape(len(batch) // crops, crops, -1)  # N x crops x classes
            means[level] = rows[:, 0] if crops == 1 else rows.mean(axis=1)
            if not np.isfinite(means[level]).all():
                raise UserError(f"{self.source} gives probabilities that are not finite")
        return means


def from_solver(solver, weights=None):
    """The Model of a solver file, in Caffe. weights: default: the newest whole snapshot's."""
    net = trained.read(solver, weights)
    return Model(
        net.hierarchy,
        net.preprocessing,
        net.outputs,
        CaffeEngine(net.net, net.file, net.weights),
        str(net.weights),
        net.feature,
    )


def from_folder(folder, engine=None):
    """The Model in a folder that tools/export.py wrote.

    engine: of ENGINES; default: onnx where this Python has onnxruntime, which is faster on the CPU.
    """
    folder = Path(folder)
    if not (folder / labels.FILE).is_file():
        raise UserError(f"{folder} is not an exported model: it has no {labels.FILE}")
    if engine is None:
        engine = "onnx" if importlib.util.find_spec("onnxruntime") else "caffe"
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not of {ENGINES}")
    found, prepared = labels.read(folder), pixels.read(folder)
    if engine == "onnx":
        runs, source = OnnxEngine(folder / ONNX, prepared.input), folder / ONNX
    else:
        runs, source = _caffe_engine(folder, prepared), folder / WEIGHTS
    return Model(found.hierarchy, prepared, found.outputs, runs, str(source), found.feature)


def _caffe_engine(folder, prepared):
    from tools.pycaffe import caffe_pb2

    path = folder / NET
    message = prototxt.read(path, caffe_pb2.NetParameter())
    return CaffeEngine(message, str(path), folder / WEIGHTS, prepared.input)
