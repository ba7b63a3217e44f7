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
    products = graph.step(layer, "products", "MatMul", [maps[0], other])  # N x C1 x C2
    numbers = [layer.inputs[0][1] * layer.inputs[-1][1]]
    if not signed_sqrt and not l2_normalize:
        graph.reshape(layer, "z", products, numbers, layer.tops[0])
        return
    value = graph.reshape(layer, "z", products, numbers)
    if signed_sqrt:
        root = graph.step(layer, "root", "Sqrt", [graph.step(layer, "size", "Abs", [value])])
        factors = [graph.step(layer, "sign", "Sign", [value]), root]
        if not l2_normalize:
            graph.write("Mul", factors, layer.tops[0])
            return
        value = graph.step(layer, "y", "Mul", factors)
    length = graph.step(layer, "length", "ReduceL2", [value], axes=[1], keepdims=1)
    smallest = graph.constant(layer, "smallest", [np.finfo(np.float32).tiny])
    safe = graph.step(layer, "safe", "Max", [length, smallest])
    graph.write("Div", [value, safe], layer.tops[0])
