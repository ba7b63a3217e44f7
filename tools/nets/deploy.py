"""The trained net alone: one input, class probabilities per level, no stages, no phases."""

from tools.pycaffe import TEST, caffe_pb2

from . import head, rules


def _without_training(layer):
    """A copy of a layer without what only training reads: rules, learning rates, fillers."""
    kept = caffe_pb2.LayerParameter()
    kept.CopyFrom(layer)
    kept.ClearField("include")
    kept.ClearField("param")
    for name in ("convolution_param", "inner_product_param"):
        if kept.HasField(name):
            getattr(kept, name).ClearField("weight_filler")
            getattr(kept, name).ClearField("bias_filler")
    return kept


def deploy(net, stages, levels, shape):
    """NetParameter of one variant of a train_val net, for any reader of Caffe's nets.

    Input: data, 1 x shape: an image of 3 x crop x crop, blue-green-red minus mean, or a feature of
    C x 1 x 1. Outputs: prob_fine B x C(1), prob_fc9_coarse B x C(2) ..., whose rows sum to 1.
    """
    classifiers = [head.scores(level) for level in range(1, levels + 1)]
    proto = caffe_pb2.NetParameter(name=net.name)
    proto.layer.add(
        name="data",
        type="Input",
        top=["data"],
        input_param=dict(shape=[dict(dim=[1, *shape])]),
    )
    proto.layer.extend(
        _without_training(layer)
        for layer in rules.needed_for(rules.select(net, TEST, stages), classifiers)
        if layer.type != "Data"
    )
    for level, bottom in enumerate(classifiers, 1):
        name = f"prob_{head.tag(level)}"
        proto.layer.add(name=name, type="Softmax", bottom=[bottom], top=[name])
    return proto
