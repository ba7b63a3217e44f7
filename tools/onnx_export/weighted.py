"""Layers that multiply by a matrix or by filters: Convolution, Deconvolution, InnerProduct."""

import numpy as np

from .graph import sides


def _geometry(layer):
    """(stride, pad, dilation) per spatial axis, and the group."""
    param, count = layer.proto.convolution_param, len(layer.inputs[0]) - 2
    if param.axis != 1:
        layer.refuse(f"its channels are at axis {param.axis}, not 1")
    return (
        sides(param.stride, param.stride_h, param.stride_w, 1, count),
        sides(param.pad, param.pad_h, param.pad_w, 0, count),
        sides(param.dilation, 0, 0, 1, count),
        param.group,
    )


def _filters(kind, graph, layer):
    """Both kinds of convolution; several bottoms share the filters."""
    stride, pad, dilation, group = _geometry(layer)
    # Convolution: out x in / group x ...; Deconvolution: in x out / group x ...
    filters = layer.weights[0]
    if kind == "ConvTranspose":  # OpenCV 4 does not dilate these
        filters, dilation = _dilated(filters, dilation), [1] * len(dilation)
    names = [graph.constant(layer, "weights", filters)]
    if len(layer.weights) > 1:
        names.append(graph.constant(layer, "bias", layer.weights[1].ravel()))
    for bottom, top in zip(layer.bottoms, layer.tops):
        graph.write(
            kind,
            [bottom, *names],
            top,
            kernel_shape=list(filters.shape[2:]),
            strides=stride,
            pads=pad + pad,
            dilations=dilation,
            group=group,
        )


def convolution(graph, layer):
    _filters("Conv", graph, layer)


def deconvolution(graph, layer):
    _filters("ConvTranspose", graph, layer)


def _dilated(filters, dilation):
    """Filters with zeros between their weights, which need no dilation."""
    for axis, factor in enumerate(dilation, 2):
        shape = list(filters.shape)
        shape[axis] = factor * (shape[axis] - 1) + 1
        wide = np.zeros(shape, filters.dtype)
        wide[(slice(None),) * axis + (slice(None, None, factor),)] = filters
        filters = wide
    return filters


def inner_product(graph, layer):
    """y = W x + b over all axes from `axis` on."""
    param = layer.proto.inner_product_param
    axis = layer.axis(param.axis)
    matrix = layer.weights[0].reshape(layer.weights[0].shape[-2:])  # K x M if transposed, or M x K
    bias = layer.weights[1].ravel() if len(layer.weights) > 1 else None
    bottom = layer.bottoms[0]
    if axis == 1:
        names = [graph.constant(layer, "weights", matrix)]
        if bias is not None:
            names.append(graph.constant(layer, "bias", bias))
        if len(layer.inputs[0]) > 2:
            bottom = graph.step(layer, "flat", "Flatten", [bottom], axis=1)
        graph.write("Gemm", [bottom, *names], layer.tops[0], transB=int(not param.transpose))
        return
    columns = matrix if param.transpose else matrix.T  # K x M
    rows = graph.reshape(layer, "rows", bottom, [*layer.inputs[0][1:axis], len(columns)])
    factors = [rows, graph.constant(layer, "weights", columns)]
    if bias is None:
        graph.write("MatMul", factors, layer.tops[0])
        return
    product = graph.step(layer, "product", "MatMul", factors)
    graph.write("Add", [product, graph.constant(layer, "bias", bias)], layer.tops[0])
