"""Applies Caffe's NetStateRule to nets that are only read: which layers a state keeps."""

from tools.pycaffe import caffe_pb2


def _meets(rule, phase, stages):
    """Whether the state, at level 0, satisfies the rule, as Net::StateMeetsRule."""
    return (
        (not rule.HasField("phase") or rule.phase == phase)
        and rule.min_level <= 0
        and (rule.max_level >= 0 or not rule.HasField("max_level"))
        and all(stage in stages for stage in rule.stage)
        and not any(stage in stages for stage in rule.not_stage)
    )


def keeps(layer, phase, stages):
    """Whether a state keeps the LayerParameter, as Net::FilterNet."""
    if layer.include:
        return any(_meets(rule, phase, stages) for rule in layer.include)
    return not any(_meets(rule, phase, stages) for rule in layer.exclude)


def select(net, phase, stages):
    """A copy of a NetParameter with the layers of one state only.

    phase: caffe.TRAIN or caffe.TEST. stages: names, e.g. ("csm", "skip").
    """
    chosen = caffe_pb2.NetParameter()
    chosen.CopyFrom(net)
    del chosen.layer[:]
    chosen.layer.extend(layer for layer in net.layer if keeps(layer, phase, stages))
    return chosen


def needed_for(net, blobs):
    """The layers, in order, that the blobs of a filtered net depend on (in-place ones included)."""
    wanted, kept = set(blobs), []
    for layer in reversed(net.layer):
        if wanted & set(layer.top):
            wanted |= set(layer.bottom)
            kept.append(layer)
    return kept[::-1]
