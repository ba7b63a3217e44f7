"""Layers that arrange numbers or reduce an axis: Concat, Slice, Flatten, Crop, Softmax ..."""

import math


def concat(graph, layer):
    param = layer.proto.concat_param
    axis = layer.axis(param.concat_dim if param.HasField("concat_dim") else param.axis)
    graph.write("Concat", layer.bottoms, layer.tops[0], axis=axis)


def slices(graph, layer):
    """Slice: parts of the bottom along one axis."""
    param = layer.proto.slice_param
    axis = layer.axis(param.slice_dim if param.HasField("slice_dim") else param.axis)
    if len(layer.tops) == 1:
        graph.write("Identity", layer.bottoms, layer.tops[0])
        return
    sizes = graph.whole(layer, "sizes", [shape[axis] for shape in layer.outputs])
    graph.write("Split", [layer.bottoms[0], sizes], layer.tops, axis=axis)


def flatten(graph, layer):
    param = layer.proto.flatten_param
    axis = layer.axis(param.axis)
    if axis == 1 and len(layer.outputs[0]) == 2:
        graph.write("Flatten", layer.bottoms, layer.tops[0], axis=1)
    else:
        graph.reshape(layer, "flat", layer.bottoms[0], layer.outputs[0][1:], layer.tops[0])


def reshape(graph, layer):
    """Any shape that keeps the batch first, which build.py checks."""
    if math.prod(layer.inputs[0][1:]) != math.prod(layer.outputs[0][1:]):
        layer.refuse("its top has another number of values per image")
    graph.reshape(layer, "new", layer.bottoms[0], layer.outputs[0][1:], layer.tops[0])


def crop(graph, layer):
    """The part of the first bottom that has the size of the second, from `axis` on."""
    param = layer.proto.crop_param
    first = layer.axis(param.axis)
    axes = list(range(first, len(layer.inputs[0])))
    offsets = list(param.offset) or [0]
    starts = offsets if len(offsets) > 1 else offsets * len(axes)
    ends = [start + layer.outputs[0][axis] for start, axis in zip(starts, axes)]
    bounds = [
        graph.whole(layer, what, numbers)
        for what, numbers in (("starts", starts), ("ends", ends), ("axes", axes))
    ]
    graph.write("Slice", [layer.bottoms[0], *bounds], layer.tops[0])


def tile(graph, layer):
    param = layer.proto.tile_param
    axis = layer.axis(param.axis)
    repeats = [1] * len(layer.inputs[0])
    repeats[axis] = param.tiles
    graph.write("Tile", [layer.bottoms[0], graph.whole(layer, "repeats", repeats)], layer.tops[0])


def reduction(graph, layer):
    """One number for all axes from `axis` on: sum, sum of magnitudes or squares, or mean."""
    param = layer.proto.reduction_param
    axis = layer.axis(param.axis)
    # One axis to reduce: OpenCV 4 has wrong results over three.
    flat = [*layer.inputs[0][1:axis], math.prod(layer.inputs[0][axis:])]
    values = [graph.reshape(layer, "flat", layer.bottoms[0], flat)]
    kind = {
        param.SUM: "ReduceSum",
        param.ASUM: "ReduceL1",
        param.SUMSQ: "ReduceSumSquare",
        param.MEAN: "ReduceMean",
    }[param.operation]
    attributes = {"keepdims": 0}
    if kind == "ReduceSum":  # since opset 13 the axes of this one are an input
        values.append(graph.whole(layer, "axes", [axis]))
    else:
        attributes["axes"] = [axis]
    if param.coeff == 1:
        graph.write(kind, values, layer.tops[0], **attributes)
        return
    reduced = graph.step(layer, "reduced", kind, values, **attributes)
    factor = graph.constant(layer, "coefficient", [param.coeff])
    graph.write("Mul", [reduced, factor], layer.tops[0])


def softmax(graph, layer):
    axis = layer.axis(layer.proto.softmax_param.axis)
    graph.write("Softmax", layer.bottoms, layer.tops[0], axis=axis)
