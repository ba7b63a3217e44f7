"""Nets with images of noise, in the CPU's or the GPU's mode, and whether the modes agree."""

import math

import numpy as np

from data_prep.common import prototxt
from tools import solver_net
from tools.training_net import training_net

# Of a gradient, as a share of its length. Sums in another order make another input the largest of a
# pool here and there: between two CPU libraries 0.005 in GoogLeNet's first layer. A wrong layer
# makes differences near 1.
TOLERANCE = 0.02


def random_net(proto, gpu, labels):
    """caffe.Net of a NetParameter with the inputs data and label, with the same values each time.

    labels: of the images, rows of training_net's tree.
    Weights have the variance 2 / fan-in, so that activations neither vanish nor grow with depth:
    the prototxts' own fillers make most layers' values too small to compare.
    """
    from tools.pycaffe import caffe

    caffe.set_mode_gpu() if gpu else caffe.set_mode_cpu()
    with prototxt.as_file(proto) as path:
        net = caffe.Net(path, caffe.TRAIN)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():
        for blob in blobs:
            fan_in = math.prod(list(blob.shape)[1:])
            blob.data[...] = (
                0
                if len(blob.shape) == 1
                else (math.sqrt(2 / fan_in) * rng.standard_normal(tuple(blob.shape), np.float32))
            )
    net.blobs["data"].data[...] = rng.standard_normal(tuple(net.blobs["data"].shape), np.float32)
    net.blobs["label"].data[...] = labels[:, :, None, None]
    return net


def without_dropout(proto):
    """The same net; its Dropout layers, whose noise differs between the modes, keep everything."""
    for layer in proto.layer:
        if layer.type == "Dropout":
            layer.dropout_param.dropout_ratio = 0
    return proto


def outcome(solver, batch, gpu):
    """{name: array} of a solver's net after one pass: its losses and all gradients of weights."""
    proto, tree = training_net(solver_net.read_solver(solver), batch)
    # Two siblings, one of them twice, and a class of another parent: GLM has no empty set.
    fine = np.resize([0, 1, len(tree) - 1], batch)
    net = random_net(without_dropout(proto), gpu, tree[fine])
    values = {name: value.copy() for name, value in net.forward().items()}
    net.backward()
    return values | {
        f"{layer}[{i}]": blob.diff.copy()
        for layer, blobs in net.params.items()
        for i, blob in enumerate(blobs)
    }


def worst(expected, found):
    """(relative error, name) of the entry that differs most, by its length."""
    errors = []
    for name, values in expected.items():
        difference = np.linalg.norm((found[name] - values).astype(np.float64))
        length = np.linalg.norm(values.astype(np.float64))
        errors.append((float(difference / length if length else difference), name))
    return max((math.inf if math.isnan(error) else error, name) for error, name in errors)
