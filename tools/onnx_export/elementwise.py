"""Layers that map each number by itself, and Eltwise, which joins blobs number by number."""

import math

import numpy as np
from onnx import TensorProto


def plain(kind):
    """The writer of a layer that is one ONNX operator without parameters."""

    def write(graph, layer):
        graph.write(kind, layer.bottoms, layer.tops[0])

    return write


def same(graph, layer):
    """Dropout, in tests, and Split: every top is the bottom."""
    for top in layer.tops:
        graph.write("Identity", layer.bottoms, top)


def relu(graph, layer):
    slope = layer.proto.relu_param.negative_slope
    if slope:
        graph.write("LeakyRelu", layer.bottoms, layer.tops[0], alpha=slope)
    else:
        graph.write("Relu", layer.bottoms, layer.tops[0])


def prelu(graph, layer):
    slopes = layer.weights[0].ravel()  # one, or one per channel
    after = [1] * (len(layer.inputs[0]) - 2)
    slope = graph.constant(layer, "slope", slopes.reshape(-1, *after))
    graph.write("PRelu", [layer.bottoms[0], slope], layer.tops[0])


def elu(graph, layer):
    graph.write("Elu", layer.bottoms, layer.tops[0], alpha=layer.proto.elu_param.alpha)


def clip(graph, layer):
    param = layer.proto.clip_param
    limits = [graph.constant(layer, name, getattr(param, name)) for name in ("min", "max")]
    graph.write("Clip", [layer.bottoms[0], *limits], layer.tops[0])


def threshold(graph, layer):
    limit = graph.constant(layer, "threshold", [layer.proto.threshold_param.threshold])
    above = graph.step(layer, "above", "Greater", [layer.bottoms[0], limit])
    graph.write("Cast", [above], layer.tops[0], to=TensorProto.FLOAT)


def swish(graph, layer):
    """x sigmoid(beta x)."""
    beta = graph.constant(layer, "beta", [layer.proto.swish_param.beta])
    scaled = graph.step(layer, "scaled", "Mul", [layer.bottoms[0], beta])
    gate = graph.step(layer, "gate", "Sigmoid", [scaled])
    graph.write("Mul", [layer.bottoms[0], gate], layer.tops[0])


def _linear(graph, layer, param):
    """scale x + shift."""
    factor = graph.constant(layer, "scale", [param.scale])
    scaled = graph.step(layer, "scaled", "Mul", [layer.bottoms[0], factor])
    return graph.step(
        layer, "shifted", "Add", [scaled, graph.constant(layer, "shift", [param.shift])]
    )


def power(graph, layer):
    """(scale x + shift) ^ power."""
    param = layer.proto.power_param
    base = _linear(graph, layer, param)
    if param.power == 1:
        graph.write("Identity", [base], layer.tops[0])
    else:
        exponent = graph.constant(layer, "power", [param.power])
        graph.write("Pow", [base, exponent], layer.tops[0])


def _log_base(param):
    """Natural logarithm of the base; -1 stands for e."""
    return 1.0 if param.base == -1 else math.log(param.base)


def exp(graph, layer):
    """base ^ (scale x + shift)."""
    param = layer.proto.exp_param
    factor = graph.constant(layer, "log_base", [_log_base(param)])
    exponent = graph.step(layer, "exponent", "Mul", [_linear(graph, layer, param), factor])
    graph.write("Exp", [exponent], layer.tops[0])


def log(graph, layer):
    """Logarithm of scale x + shift to the base."""
    param = layer.proto.log_param
    natural = graph.step(layer, "natural", "Log", [_linear(graph, layer, param)])
    factor = graph.constant(layer, "per_log_base", [1 / _log_base(param)])
    graph.write("Mul", [natural, factor], layer.tops[0])


def eltwise(graph, layer):
    """Sum with coefficients, product or maximum of two blobs or more, in their order."""
    param = layer.proto.eltwise_param
    kind = {param.SUM: "Add", param.PROD: "Mul", param.MAX: "Max"}[param.operation]
    values = list(layer.bottoms)
    if param.operation == param.SUM:
        for i, coefficient in enumerate(param.coeff):
            if coefficient != 1:
                factor = graph.constant(layer, f"coefficient{i}", np.array([coefficient]))
                values[i] = graph.step(layer, f"scaled{i}", "Mul", [values[i], factor])
    joined = values[0]
    for i, value in enumerate(values[1:-1]):
        joined = graph.step(layer, f"joined{i}", kind, [joined, value])
    graph.write(kind, [joined, values[-1]], layer.tops[0])
