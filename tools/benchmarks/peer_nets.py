"""The nets that tools/bench.py step --peers compares engines with, as files that any engine reads.

A folder per net:
    train.prototxt   the solver's training net, with Input layers data and label
    infer.prototxt   the same up to the scores of the fine classes, with the Input layer data
    solver.prototxt  its solver without the net: what an update takes
    values.npz       <layer>/<i>: weights, data: images, label: classes
    net.caffemodel   the same weights
    net.onnx         infer.prototxt with the weights, where write_onnx was called
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools import caffe_errors, solver_net
from tools.nets import head, rules
from tools.training_net import training_net

from . import resnet

ROOT = Path(__file__).resolve().parents[2]
GRAFTED = "resnet50"
# name: solver of plain softmax; None: made by tools/graft.py
NETS = {
    "alexnet": "prototxt/cars_alexnet_sm_solver.prototxt",
    "googlenet": "prototxt/cars_googlenet_sm_solver.prototxt",
    "vgg16": "prototxt/cars_vgg16_sm_solver.prototxt",
    "squeezenet": "prototxt/cub_squeezenet_sm_solver.prototxt",
    GRAFTED: None,
}
# What a solver may say that changes an update, and is kept.
KEPT = ("base_lr", "momentum", "weight_decay", "clip_gradients")


def write(solver_path, images, folder, base_lr=None):
    """Write the files of a solver's net, with `images` random images, into a new folder.

    base_lr is used instead of the solver's, which fits pretrained weights, not these random ones.
    Raises UserError for solvers other than SGD, and nets without images, labels and a classifier.
    """
    folder = Path(folder)
    solver = solver_net.read_solver(solver_path)
    if (solver.type or "SGD") != "SGD":
        raise UserError(f"{solver_path} is of type {solver.type}: engines are compared with SGD")
    proto, tree = training_net(solver, images)
    folder.mkdir(parents=True)
    for name, content in (
        ("train", proto),
        ("infer", _inference(proto)),
        ("solver", _update_of(solver, base_lr)),
    ):
        text = text_format.MessageToString(content)
        (folder / f"{name}.prototxt").write_text(text, encoding="utf-8")
    net = _filled(proto, solver_path)
    rng = np.random.default_rng(1)
    labels = tree[rng.integers(len(tree), size=images)]
    values = {
        "data": rng.standard_normal(tuple(net.blobs["data"].shape), np.float32),
        "label": labels[:, :, None, None].astype(np.float32),
    }
    for name, blobs in net.params.items():
        values |= {f"{name}/{i}": blob.data for i, blob in enumerate(blobs)}
    np.savez(folder / "values.npz", **values)
    net.save(str(folder / "net.caffemodel"))


def write_onnx(folder):
    """Add net.onnx to a net's folder. Needs the package onnx."""
    from tools.onnx_export import build
    from tools.pycaffe import caffe, caffe_pb2

    folder = Path(folder)
    proto = prototxt.read(folder / "infer.prototxt", caffe_pb2.NetParameter())
    own = build.without_in_place(proto)
    with prototxt.as_file(own) as path:
        net = caffe.Net(path, caffe.TEST)
    net.copy_from(str(folder / "net.caffemodel"))
    weights = {name: [blob.data for blob in blobs] for name, blobs in net.params.items()}
    shapes = {name: list(blob.shape) for name, blob in net.blobs.items()}
    (folder / "net.onnx").write_bytes(build.content(build.build(own, weights, shapes)))


def graft_resnet(folder):
    """Path of a plain softmax solver of ResNet-50, grafted as a user does it."""
    folder = Path(folder)
    deploy = folder / "ResNet-50-deploy.prototxt"
    deploy.write_text(resnet.resnet50(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "tools/graft.py", "--net", deploy, "--levels", "196,9"]
        + ["--variant", "sm", "--out", folder / "grafted"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"ResNet-50 could not be grafted: {done.stderr.strip().splitlines()[-1]}")
    (path,) = (folder / "grafted").glob("*_sm_solver.prototxt")
    return path


def _inference(proto):
    """The layers of a training net that the scores of the fine classes depend on."""
    kept = rules.needed_for(proto, [head.scores(1)])
    net = type(proto)(name=proto.name)
    net.layer.extend(kept)
    return net


def _update_of(solver, base_lr):
    update = type(solver)(
        lr_policy="fixed", display=0, max_iter=1 << 30, snapshot_after_train=False
    )
    for name in KEPT:
        if solver.HasField(name):
            setattr(update, name, getattr(solver, name))
    if base_lr is not None:
        update.base_lr = base_lr
    return update


def _filled(proto, what):
    """caffe.Net with random weights that leave activations neither to vanish nor to grow.

    Biases and stored statistics are random, too: an engine that ignores one is found.
    """
    from tools.pycaffe import caffe

    with caffe_errors.refusals(f"Caffe refuses the net of {what}"), prototxt.as_file(proto) as path:
        net = caffe.Net(path, caffe.TRAIN)
    rng = np.random.default_rng(0)
    residual = _before_sums(proto)
    for layer in proto.layer:
        blobs = net.params.get(layer.name, [])
        for i, blob in enumerate(blobs):
            shape = tuple(blob.shape)
            noise = rng.standard_normal(shape, np.float32)
            if layer.type == "BatchNorm":  # mean, variance, and what both are multiplied by
                blob.data[...] = (0.1 * noise, 1 + 0.2 * np.abs(noise), 1)[i]
            elif i:
                blob.data[...] = 0.1 * noise
            elif layer.type == "Scale":
                blob.data[...] = (0.2 if layer.top[0] in residual else 1) + 0.02 * noise
            else:
                blob.data[...] = noise * np.sqrt(2 / np.prod(shape[1:]))
    return net


def _before_sums(proto):
    """Names of the blobs that Eltwise layers add to a shortcut: their last bottoms."""
    return {layer.bottom[-1] for layer in proto.layer if layer.type == "Eltwise"}
