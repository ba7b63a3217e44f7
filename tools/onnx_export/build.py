"""Puts an ONNX model together and checks it: operators, types, and the shape of every blob."""

import onnx
from onnx import TensorProto, helper

from data_prep.common.errors import UserError
from tools.pycaffe import caffe_pb2

from .graph import Graph, Layer
from .table import writer

# Fixed, so that the same net gives the same bytes with every version of the package. They are of
# 2020 and 2021: today's readers know them, and many older ones.
OPSET, IR_VERSION = 13, 8
BATCH = "N"
PRODUCER = "hierarchical-caffe"


def without_in_place(net):
    """A copy of a NetParameter in which every layer writes blobs of its own.

    The last layer that writes a blob keeps its name, and others write BLOB@LAYER; the name of the
    input stays the input's.
    """
    own = caffe_pb2.NetParameter()
    own.CopyFrom(net)
    last = {top: i for i, layer in enumerate(own.layer) for top in layer.top}
    inputs = [(i, layer) for i, layer in enumerate(own.layer) if layer.type == "Input"]
    last.update((top, i) for i, layer in inputs for top in layer.top)
    taken, now = set(last), {}
    for i, layer in enumerate(own.layer):
        layer.bottom[:] = [now.get(blob, blob) for blob in layer.bottom]
        for j, blob in enumerate(layer.top):
            name = blob
            if last[blob] != i:
                name = f"{blob}@{layer.name}"
                while name in taken:
                    name += "_"
                taken.add(name)
            now[blob] = layer.top[j] = name
    return own


def build(net, weights, shapes, *, trace=False):
    """onnx.ModelProto of a net for any number of images.

    net      NetParameter as without_in_place gives it: one Input layer, and layers of phase TEST
    weights  {layer: [float32 arrays]}
    shapes   {blob: shape} as Caffe gives them; axis 0 is the batch
    trace    whether all blobs are outputs of the model; else those that no layer reads

    Raises UserError where a layer has no counterpart in ONNX, or where the model fails a check.
    """
    inputs = [layer.top[0] for layer in net.layer if layer.type == "Input"]
    if len(inputs) != 1:
        raise UserError(f"a net with one input is needed, this one has {len(inputs)}")
    blobs = [top for layer in net.layer for top in layer.top]
    graph, constant = Graph(blobs), set()
    for proto in net.layer:
        if proto.type == "Input":
            continue
        layer = Layer(
            proto=proto,
            bottoms=tuple(proto.bottom),
            tops=tuple(proto.top),
            inputs=tuple(tuple(shapes[blob]) for blob in proto.bottom),
            outputs=tuple(tuple(shapes[blob]) for blob in proto.top),
            weights=tuple(weights.get(proto.name, ())),
        )
        if constant.issuperset(proto.bottom):  # a Parameter, or what is computed from it alone
            constant.update(proto.top)
        else:
            _check_batch(layer, shapes[inputs[0]][0], constant)
        writer(layer)(graph, layer)
    read = {blob for layer in net.layer for blob in layer.bottom}
    outputs = [
        blob
        for blob in blobs
        if blob not in inputs and blob not in constant and (trace or blob not in read)
    ]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            net.name or "net",
            [_value(inputs[0], shapes)],
            [_value(blob, shapes) for blob in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    _check(model, {blob: shapes[blob] for blob in blobs if blob not in constant})
    return model


def content(model):
    """The bytes of a model, the same for the same model."""
    return model.SerializeToString(deterministic=True)


def _value(blob, shapes):
    return helper.make_tensor_value_info(blob, TensorProto.FLOAT, [BATCH, *shapes[blob][1:]])


def _check_batch(layer, batch, constant):
    """UserError where a blob of the layer doesn't have the images of the batch along axis 0."""
    if layer.proto.type == "Silence":
        return
    for top, shape in zip(layer.tops, layer.outputs):
        if not shape or shape[0] != batch:
            layer.refuse(f"its top {top} is {shape}, without the {batch} images as axis 0")


def _check(model, shapes):
    """UserError unless the model is valid and has the shapes that Caffe has."""
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"the ONNX model is not valid: {' '.join(str(error).split())}") from None
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.name not in shapes:
            continue
        dims = value.type.tensor_type.shape.dim
        found = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        if found[1:] != list(shapes[value.name][1:]) or found[:1] != [None]:
            raise UserError(
                f"blob {value.name} has the shape {found} in ONNX and {shapes[value.name]} in Caffe"
            )
