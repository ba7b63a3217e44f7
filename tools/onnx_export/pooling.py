"""Pooling and SPP, with the arithmetic of Caffe's PoolingLayer (layers/pooling_layer.cpp).

Caffe rounds the number of windows up, so that the last one may reach beyond the padded image, and
drops a last window that would begin in the padding behind it. A maximum ignores the padding. A mean
counts the zeros of the padding, and not what lies beyond it. In ONNX the part of the last window
beyond the image becomes padding at the end, and the padding of a mean becomes a Pad of its own.
"""

from dataclasses import dataclass

from .graph import sides


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: pixels, kernel, stride, padding at each side, number of windows."""

    size: int
    kernel: int
    stride: int
    pad: int
    count: int

    @classmethod
    def of(cls, size, kernel, stride, pad, *, padded, floor):
        """padded: whether any axis has padding; floor: round the number of windows down."""
        room = size + 2 * pad - kernel
        count = (room // stride if floor else -(-room // stride)) + 1
        if padded and (count - 1) * stride >= size + pad:
            count -= 1
        return cls(size, kernel, stride, pad, count)

    @property
    def end(self):
        """Pixels between the last one of the image and the end of the last window, at least 0."""
        return max(0, (self.count - 1) * self.stride + self.kernel - self.size - self.pad)

    @property
    def outside(self):
        """Whether the last window holds neither image nor padding."""
        return (self.count - 1) * self.stride >= self.size + 2 * self.pad


def pooled(graph, layer, axes, average, top):
    """Pool the layer's bottom along two Axis into the value `top`."""
    if any(axis.outside for axis in axes):
        layer.refuse("its last window lies outside of its input (stride above kernel size)")
    bottom, pads, ends = layer.bottoms[0], [axis.pad for axis in axes], [axis.end for axis in axes]
    if average and any(pads):
        zeros = graph.whole(layer, "zeros", [0, 0, *pads, 0, 0, *pads])
        bottom = graph.step(layer, "padded", "Pad", [bottom, zeros])
        ends = [max(0, end - pad) for end, pad in zip(ends, pads)]
        pads = [0] * len(pads)
    graph.write(
        "AveragePool" if average else "MaxPool",
        [bottom],
        top,
        kernel_shape=[axis.kernel for axis in axes],
        strides=[axis.stride for axis in axes],
        pads=[*pads, *ends],
    )


def _average(layer, param):
    """Whether the layer takes means; else maxima."""
    if param.pool == param.STOCHASTIC:
        layer.refuse("its windows are drawn at random (STOCHASTIC)")
    if len(layer.tops) > 1:
        layer.refuse("its second top, the positions of the maxima, has no counterpart")
    return param.pool == param.AVE


def pooling(graph, layer):
    param = layer.proto.pooling_param
    average = _average(layer, param)
    if param.global_pooling:
        kind = "GlobalAveragePool" if average else "GlobalMaxPool"
        graph.write(kind, layer.bottoms, layer.tops[0])
        return
    kernel = sides([param.kernel_size], param.kernel_h, param.kernel_w, 1, 2)
    stride = sides([param.stride], param.stride_h, param.stride_w, 1, 2)
    pad = sides([param.pad], param.pad_h, param.pad_w, 0, 2)
    axes = [
        Axis.of(*values, padded=any(pad), floor=param.round_mode == param.FLOOR)
        for values in zip(layer.inputs[0][2:], kernel, stride, pad)
    ]
    pooled(graph, layer, axes, average, layer.tops[0])


def pyramid(graph, layer):
    """SPP: bins of 1, 2 x 2, 4 x 4 ... over the whole map, joined (layers/spp_layer.cpp)."""
    param = layer.proto.spp_param
    average = _average(layer, param)
    parts = []
    for level in range(param.pyramid_height):
        bins, axes = 1 << level, []
        kernels = [-(-size // bins) for size in layer.inputs[0][2:]]
        pads = [(k * bins - size + 1) // 2 for k, size in zip(kernels, layer.inputs[0][2:])]
        for size, kernel, pad in zip(layer.inputs[0][2:], kernels, pads):
            axes.append(Axis.of(size, kernel, kernel, pad, padded=any(pads), floor=False))
        if param.pyramid_height == 1:
            pooled(graph, layer, axes, average, layer.tops[0])
            return
        part = graph.value(layer, f"level{level}")
        pooled(graph, layer, axes, average, part)
        parts.append(graph.step(layer, f"flat{level}", "Flatten", [part], axis=1))
    graph.write("Concat", parts, layer.tops[0], axis=1)
