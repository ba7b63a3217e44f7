"""The parts that an ONNX graph is made of, and the view of a Caffe layer that the writers get."""

from dataclasses import dataclass

import numpy as np
from onnx import helper, numpy_helper

from data_prep.common.errors import UserError


@dataclass(frozen=True)
class Layer:
    """A layer of a net in which every layer writes blobs of its own, so none works in place.

    proto     LayerParameter
    bottoms, tops    names of the blobs, which are also the names of the values in ONNX
    inputs, outputs  their shapes; axis 0 is the batch
    weights   arrays, float32, as Caffe holds them
    """

    proto: object
    bottoms: tuple
    tops: tuple
    inputs: tuple
    outputs: tuple
    weights: tuple

    def refuse(self, why):
        """Raise UserError: this layer has no counterpart in ONNX."""
        raise UserError(
            f"layer {self.proto.name} ({self.proto.type}) can't be written as ONNX: {why}"
        )

    def axis(self, value):
        """An axis of the first bottom counted from the front; never the batch, which may vary."""
        axis = value + len(self.inputs[0]) if value < 0 else value
        if axis == 0:
            self.refuse("it works along axis 0, the images of a batch, whose number may vary")
        return axis


class Graph:
    """Nodes and constants, each with a name of its own.

    taken: names that belong to blobs.
    """

    def __init__(self, taken):
        self.nodes, self.constants = [], []
        self._taken = set(taken)

    def _own(self, name):
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def constant(self, layer, what, values, dtype=np.float32):
        """Name of a constant. values: an array, or a list of numbers."""
        name = self._own(f"{layer.proto.name}:{what}")
        array = np.ascontiguousarray(np.asarray(values, dtype))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, layer, what, numbers):
        """Name of a constant of whole numbers: axes, shapes, pads."""
        return self.constant(layer, what, numbers, np.int64)

    def parameter(self, top, values):
        """A constant that is itself a blob of the net."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), top))

    def write(self, kind, inputs, tops, **attributes):
        """Add the node that writes a blob, or a list of blobs."""
        tops = [tops] if isinstance(tops, str) else list(tops)
        self.nodes.append(helper.make_node(kind, list(inputs), tops, name=tops[0], **attributes))

    def value(self, layer, what):
        """The name for a value that only the layer itself reads."""
        return self._own(f"{layer.tops[0]}:{what}")

    def step(self, layer, what, kind, inputs, **attributes):
        """Add a node whose value only the layer itself reads; returns the value's name."""
        value = self.value(layer, what)
        self.write(kind, inputs, value, **attributes)
        return value

    def reshape(self, layer, what, value, shape, top=None):
        """Give a value another shape after the batch. top: the blob, or None for a step."""
        target = self.whole(layer, f"{what}_shape", [0, *shape])  # 0 keeps the batch
        if top is None:
            return self.step(layer, what, "Reshape", [value, target])
        return self.write("Reshape", [value, target], top)


def sides(many, height, width, default, count):
    """Numbers per spatial axis of Caffe's repeated field, or of the pair with _h and _w.

    many: the repeated or single field; height, width: 0 where not given; count: of spatial axes.
    """
    if height or width:
        return [height, width]
    many = list(many) or [default]
    return many if len(many) > 1 else many * count
