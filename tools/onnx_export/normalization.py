"""Layers that normalize, scale and shift: BatchNorm, Scale, Bias, LRN, MVN."""

import math

import numpy as np


def batch_norm(graph, layer):
    """(x - mean) / sqrt(variance + eps) with the stored statistics.

    Caffe stores sums of statistics, and as a third blob the factor to divide them by; 0 means that
    nothing has been stored (layers/batch_norm_layer.cpp).
    """
    param = layer.proto.batch_norm_param
    if param.HasField("use_global_stats") and not param.use_global_stats:
        layer.refuse("it normalizes by the statistics of the batch (use_global_stats: false)")
    mean, variance, factor = (blob.ravel() for blob in layer.weights)
    by = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    graph.write(
        "BatchNormalization",
        [
            layer.bottoms[0],
            graph.constant(layer, "scale", np.ones(len(mean))),
            graph.constant(layer, "shift", np.zeros(len(mean))),
            graph.constant(layer, "mean", mean * by),
            graph.constant(layer, "variance", variance * by),
        ],
        layer.tops[0],
        epsilon=param.eps,
    )


def _operand(graph, layer, param, what, learned):
    """Name of a factor or summand, in a shape that broadcasts over the first bottom.

    param: has `axis`, where the operand's shape begins. learned: its blob, None if it is the second
    bottom.
    """
    whole = len(layer.inputs[0])
    axis = param.axis + whole if param.axis < 0 else param.axis
    shape = layer.inputs[1] if learned is None else learned.shape
    after = [1] * (whole - axis - len(shape))
    if learned is not None:
        if axis == 0 and shape:
            layer.refuse("its weights depend on the number of images (axis: 0)")
        return graph.constant(layer, what, learned.reshape(*shape, *after))
    if not after:
        return layer.bottoms[1]
    if axis == 0:
        return graph.reshape(layer, what, layer.bottoms[1], [*shape[1:], *after])
    target = graph.whole(layer, f"{what}_shape", [*shape, *after])
    return graph.step(layer, what, "Reshape", [layer.bottoms[1], target])


def scale(graph, layer):
    """x times a factor, from the weights or from the second bottom, plus a bias if it has one."""
    param, weights = layer.proto.scale_param, list(layer.weights)
    factor = _operand(
        graph, layer, param, "factor", weights.pop(0) if len(layer.bottoms) == 1 else None
    )
    factors = [layer.bottoms[0], factor]
    if not param.bias_term:
        graph.write("Mul", factors, layer.tops[0])
        return
    product = graph.step(layer, "product", "Mul", factors)
    bias = _operand(graph, layer, param, "bias", weights.pop(0))
    graph.write("Add", [product, bias], layer.tops[0])


def bias(graph, layer):
    """x plus a summand, from the weights or from the second bottom."""
    learned = layer.weights[0] if len(layer.bottoms) == 1 else None
    summand = _operand(graph, layer, layer.proto.bias_param, "bias", learned)
    graph.write("Add", [layer.bottoms[0], summand], layer.tops[0])


def lrn(graph, layer):
    """Local response normalization, across channels or within each (layers/lrn_layer.cpp)."""
    param = layer.proto.lrn_param
    if param.norm_region == param.ACROSS_CHANNELS:
        graph.write(
            "LRN",
            layer.bottoms,
            layer.tops[0],
            size=param.local_size,
            alpha=param.alpha,
            beta=param.beta,
            bias=param.k,
        )
        return
    # x (1 + alpha mean(x^2))^-beta; the mean counts the padding, and k is not used.
    x, pad = layer.bottoms[0], (param.local_size - 1) // 2
    square = graph.step(layer, "square", "Mul", [x, x])
    zeros = graph.whole(layer, "zeros", [0, 0, pad, pad, 0, 0, pad, pad])
    padded = graph.step(layer, "padded", "Pad", [square, zeros])
    kernel = [param.local_size] * 2
    mean = graph.step(layer, "mean", "AveragePool", [padded], kernel_shape=kernel)
    scaled = graph.step(
        layer, "scaled", "Mul", [mean, graph.constant(layer, "alpha", [param.alpha])]
    )
    shifted = graph.step(layer, "shifted", "Add", [scaled, graph.constant(layer, "one", [1])])
    power = graph.constant(layer, "power", [-param.beta])
    factor = graph.step(layer, "factor", "Pow", [shifted, power])
    graph.write("Mul", [x, factor], layer.tops[0])


def mvn(graph, layer):
    """(x - mean) / (standard deviation + eps) of each image or of each of its channels."""
    param, shape = layer.proto.mvn_param, layer.inputs[0]
    kept = 1 if param.across_channels else 2
    # One axis to average over: OpenCV 4 has wrong means over three.
    flat = [*shape[1:kept], math.prod(shape[kept:])]
    x = graph.reshape(layer, "flat", layer.bottoms[0], flat)
    mean = graph.step(layer, "mean", "ReduceMean", [x], axes=[kept], keepdims=1)
    result = graph.step(layer, "centered", "Sub", [x, mean])
    if param.normalize_variance:
        square = graph.step(layer, "square", "Mul", [result, result])
        variance = graph.step(layer, "variance", "ReduceMean", [square], axes=[kept], keepdims=1)
        deviation = graph.step(layer, "deviation", "Sqrt", [variance])
        eps = graph.constant(layer, "eps", [param.eps])
        safe = graph.step(layer, "safe", "Add", [deviation, eps])
        result = graph.step(layer, "normalized", "Div", [result, safe])
    graph.reshape(layer, "whole", result, layer.outputs[0][1:], layer.tops[0])
