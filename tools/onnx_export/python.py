"""Python layers that have a counterpart in ONNX: the bilinear pooling of python_layers/."""

import math

import numpy as np

from python_layers.bilinear_pooling import PARAMETERS
from python_layers.parameters import parse

BILINEAR = ("python_layers.bilinear_pooling", "BilinearPoolingLayer")


def python(graph, layer):
    param = layer.proto.python_param
    if (param.module, param.layer) != BILINEAR:
        layer.refuse(f"only Caffe can run the Python code of {param.module}.{param.layer}")
    bilinear(graph, layer, **parse(param.param_str, PARAMETERS, param.layer))


def bilinear(graph, layer, signed_sqrt, l2_normalize):
    """z = sum_l a_l b_l^T, y = sign(z) sqrt(|z|), y / |y| (python_layers/bilinear.py).

    A descriptor of length 0 stays 0.
    """
    maps = []
    for i, (bottom, shape) in enumerate(zip(layer.bottoms, layer.inputs)):
        flat = [shape[1], math.prod(shape[2:])]  # C x positions
        maps.append(graph.reshape(layer, f"map{i}", bottom, flat))
    other = graph.step(layer, "transposed", "Transpose", [maps[-1]], perm=[0, 2, 1])
    value = graph.step(layer, "z", "MatMul", [maps[0], other])  # N x C1 x C2
    if signed_sqrt:
        root = graph.step(layer, "root", "Sqrt", [graph.step(layer, "size", "Abs", [value])])
        sign = graph.step(layer, "sign", "Sign", [value])
        value = graph.step(layer, "y", "Mul", [sign, root])
    if l2_normalize:
        # In two steps, since readers add up in float32, term by term: the length of 262144 numbers
        # at once has an error of 4e-5, that of 512 x 512 of 1e-6.
        rows = graph.step(layer, "rows", "ReduceL2", [value], axes=[2], keepdims=1)
        length = graph.step(layer, "length", "ReduceL2", [rows], axes=[1], keepdims=1)
        smallest = graph.constant(layer, "smallest", [np.finfo(np.float32).tiny])
        safe = graph.step(layer, "safe", "Max", [length, smallest])
        value = graph.step(layer, "unit", "Div", [value, safe])
    graph.reshape(layer, "flat", value, layer.outputs[0][1:], layer.tops[0])
