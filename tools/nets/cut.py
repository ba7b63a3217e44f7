"""A network of any origin, cut behind its feature: what a new head can be grafted on.

Kept are the layers that the feature depends on, under their own names, so that trained weights
still load by name, and auxiliary classifiers that branch off before it. The feature is read after
ReLU and before dropout; a dropout in place gets a blob of its own.
"""

import difflib
from dataclasses import dataclass

from data_prep.common.errors import UserError
from tools.pycaffe import TEST, TRAIN, caffe_pb2

from . import head
from .graph import PHASES, downstream, upstream

# What may stand behind the last classifier.
AFTER_CLASSIFIER = {
    "Softmax",
    "SoftmaxWithLoss",
    "HingeLoss",
    "InfogainLoss",
    "Accuracy",
    "ArgMax",
    "Pooling",
    "Flatten",
    "Reshape",
    "Dropout",
    "ReLU",
    "Silence",
    "Split",
}
# r(a x) = a r(x) for a >= 0: with these, dropout before and after is the same.
COMMUTE_WITH_DROPOUT = {"ReLU", "PReLU"}
LEARNED = {
    "convolution_param": ("Convolution", "Deconvolution"),
    "inner_product_param": ("InnerProduct",),
}
POOLED, FLAT = "feature_pool", "feature_flat"  # layers, and blobs


@dataclass(frozen=True)
class Feature:
    """Where a net is cut.

    blob        its name
    stop        position behind the last layer that writes it, dropout apart
    dropouts    positions of the Dropout layers in place on it, or of one that reads it; or none
    """

    blob: str
    stop: int
    dropouts: tuple


@dataclass(frozen=True)
class Auxiliary:
    """A classifier that branches off before the feature: positions in the graph."""

    own: frozenset
    classifier: int
    loss: int


@dataclass(frozen=True)
class Backbone:
    """The layers up to the feature, and how they were found.

    layers      LayerParameters, from the blob `data` to `feature` and `dropped`
    feature     blob that the large-margin loss reads
    dropped     blob that classifiers read: the same after dropout, if the net has one
    shape       of the feature, without the batch: (C,) or (C, 1, 1)
    weights     {layer: shapes of its weights}, auxiliary classifiers apart
    auxiliary   names of the auxiliary classifiers, which still have the original's classes
    left_out    names of the layers that were cut off
    renamed     {old: new} names of blobs and of layers without weights
    """

    layers: tuple
    feature: str
    dropped: str
    shape: tuple
    weights: dict
    auxiliary: tuple
    left_out: tuple
    renamed: dict


def _one_by_one(layer):
    """Is it a convolution with filters of one position?"""
    param = layer.convolution_param
    sizes = [*param.kernel_size, param.kernel_h, param.kernel_w]
    return layer.type == "Convolution" and max(sizes) == 1


def find_classifier(graph):
    """Position of the last fully connected layer or 1 x 1 convolution with only outputs behind it.

    None if the net has no such layer.
    """
    for position in reversed(range(len(graph))):
        node = graph[position]
        if TEST in node.phases and (node.layer.type == "InnerProduct" or _one_by_one(node.layer)):
            behind = {graph[later].layer.type for later in downstream(graph, position, TEST)}
            return position if behind <= AFTER_CLASSIFIER else None
    return None


def _unknown(graph, blob):
    """UserError that names the nearest blobs."""
    for node in graph:
        if node.source and blob in node.layer.top:
            raise UserError(f"{blob} is an input, no feature (--list-features shows all)")
        if node.layer.name == blob and node.layer.top:
            raise UserError(
                f"{blob} is a layer, no blob; the blob that it writes is {node.layer.top[0]}"
            )
    blobs = list(dict.fromkeys(top for node in graph if not node.source for top in node.layer.top))
    near = difflib.get_close_matches(blob, blobs, n=3, cutoff=0.4)
    raise UserError(
        f"the net has no blob {blob}"
        + (f": did you mean {' or '.join(near)}?" if near else "")
        + " (--list-features shows all)"
    )


def find_feature(graph, blob):
    """Feature of a blob; the blob behind a dropout stands for the one before it.

    Raises UserError if there is no such blob in both phases, or if its dropout can't be set apart.
    """
    writers = [position for position, node in enumerate(graph) if node.writes(blob)]
    if not writers:
        _unknown(graph, blob)
    first = graph[writers[0]]
    if first.layer.type == "Dropout":
        return find_feature(graph, first.layer.bottom[0])
    for phase, name in zip(PHASES, ("training", "tests")):
        if not any(phase in graph[writer].phases for writer in writers):
            raise UserError(f"blob {blob} does not exist in {name}: name another --feature")
    dropouts = [writer for writer in writers if graph[writer].layer.type == "Dropout"]
    kept = [writer for writer in writers if writer not in dropouts]
    for writer in kept:
        layer = graph[writer].layer
        if dropouts and writer > dropouts[0] and layer.type not in COMMUTE_WITH_DROPOUT:
            raise UserError(
                f"layer {layer.name} ({layer.type}) works on {blob} after dropout: the "
                "feature before dropout can't be told apart; name another --feature"
            )
    if not dropouts:
        dropouts = [
            position
            for position, node in enumerate(graph)
            if node.layer.type == "Dropout" and node.layer.bottom[0] == blob
        ][:1]
    return Feature(blob, kept[-1] + 1, tuple(dropouts))


def image_of(graph, feature):
    """Name of the one blob of images that the feature depends on; UserError if it has others."""
    inputs = set()
    for phase in PHASES:
        inputs |= upstream(graph, [feature.blob], phase, feature.stop)[1]
    if len(inputs) != 1:
        raise UserError(
            f"{feature.blob} depends on several inputs ({', '.join(sorted(inputs))}): "
            "only nets that read images alone can be grafted"
        )
    return inputs.pop()


def _find_auxiliary(graph, backbone, feature, image):
    """[Auxiliary] of the softmax losses, in training, that don't depend on the feature."""
    made = {position for position in backbone if graph[position].writes(feature.blob)}
    found = []
    for loss, node in enumerate(graph):
        if TRAIN not in node.phases or node.layer.type != "SoftmaxWithLoss":
            continue
        positions, inputs = upstream(graph, node.layer.bottom[:1], TRAIN, loss)
        learned = [
            position
            for position in sorted(positions - backbone)
            if graph[position].layer.type in ("InnerProduct", "Convolution")
        ]
        labels = upstream(graph, node.layer.bottom[1:], TRAIN, loss)[0]
        if learned and not positions & made and inputs == {image} and not labels:
            found.append(Auxiliary(frozenset(positions - backbone), learned[-1], loss))
    return found


def _copy(node, phases):
    """The LayerParameter with a rule for these phases, if not for both, and weight fillers."""
    layer = caffe_pb2.LayerParameter()
    layer.CopyFrom(node.layer)
    layer.ClearField("exclude")
    layer.ClearField("include")
    if len(phases) == 1:
        layer.include.add(phase=min(phases))
    for part, types in LEARNED.items():
        # Deploy files have none, and Caffe's default is zero, from which nothing learns.
        if layer.type in types and not getattr(layer, part).HasField("weight_filler"):
            getattr(layer, part).weight_filler.type = "msra"
    return layer


def _rename(layers, blobs, names):
    for layer in layers:
        layer.name = names.get(layer.name, layer.name)
        layer.bottom[:] = [blobs.get(blob, blob) for blob in layer.bottom]
        layer.top[:] = [blobs.get(blob, blob) for blob in layer.top]


def _apart(name, taken):
    """A name like this one that is not taken."""
    while name in taken:
        name += "_backbone"
    return name


def _new_names(layers, image, reserved, weighted):
    """({blob: new name}, {layer: new name}) that keep out of the head's way.

    Raises UserError if a layer of `weighted` would need a new name: its weights would not load.
    """
    own = {blob for layer in layers for blob in (*layer.bottom, *layer.top)}
    blobs = {blob: _apart(blob, reserved | own) for blob in sorted(own & reserved) if blob != image}
    blobs[image] = "data"
    names = {layer.name for layer in layers}
    clashing = sorted(names & reserved)
    for name in clashing:
        if name in weighted:
            raise UserError(
                f"layer {name} has weights and the name of a layer of the head: rename "
                "it in the net and in its caffemodel"
            )
    return blobs, {name: _apart(name, reserved | names) for name in clashing}


def _add_silence(layers, used):
    """Caffe prints blobs that nothing reads: silence them, the losses' apart."""
    for phase in PHASES:
        there = [layer for layer in layers if not layer.include or layer.include[0].phase == phase]
        read = {*used, *(blob for layer in there for blob in layer.bottom)}
        unread = [
            blob
            for layer in there
            if layer.type != "SoftmaxWithLoss"
            for blob in layer.top
            if blob not in read
        ]
        if unread:
            layers.append(
                caffe_pb2.LayerParameter(
                    name="unused_backbone",
                    type="Silence",
                    bottom=unread,
                    include=[dict(phase=phase)],
                )
            )


def _add_map(layers, feature, how):
    """Make one vector of a C x H x W feature; returns its blob."""
    if how == "pool":
        layers.append(
            caffe_pb2.LayerParameter(
                name=POOLED,
                type="Pooling",
                bottom=[feature],
                top=[POOLED],
                pooling_param=dict(pool=caffe_pb2.PoolingParameter.AVE, global_pooling=True),
            )
        )
        return POOLED
    layers.append(caffe_pb2.LayerParameter(name=FLAT, type="Flatten", bottom=[feature], top=[FLAT]))
    return FLAT


def _as_vector(layers, feature, shape, how):
    """(blob, shape) of the feature, averaged or joined over its positions if it has several."""
    if len(shape) != 3 or shape[1:] == (1, 1):
        return feature, shape
    c, h, w = shape
    if not how:
        raise UserError(
            f"feature {feature} has {h} x {w} positions of {c} numbers: add --map pool "
            "to average over them, --map flatten to join them, or name another "
            "--feature"
        )
    return _add_map(layers, feature, how), (c, 1, 1) if how == "pool" else (c * h * w,)


def cut(graph, feature, image, shapes, *, reserved, how=None, auxiliary=True):
    """Backbone of a graph.

    feature     Feature
    image       blob of the images
    shapes      ({blob: shape}, {layer with weights: shapes}) as foreign.shapes gives them
    reserved    names of the head's layers and blobs
    how         "pool" or "flatten": what to do with a feature of more than one position
    auxiliary   keep the auxiliary classifiers?
    """
    blobs, weights = shapes
    per_phase = {
        phase: upstream(graph, [feature.blob], phase, feature.stop)[0] - set(feature.dropouts)
        for phase in PHASES
    }
    kept = set().union(*per_phase.values())
    branches = _find_auxiliary(graph, kept, feature, image) if auxiliary else []
    training = {position for branch in branches for position in (*branch.own, branch.loss)}
    made = {
        position: _copy(
            graph[position],
            {TRAIN}
            if position in training
            else {phase for phase in PHASES if position in per_phase[phase]},
        )
        for position in sorted(kept | training)
    }
    for branch in branches:
        del made[branch.loss].bottom[1:]  # the label, which is the head's
        made[branch.classifier].name = _apart(f"{made[branch.classifier].name}_fine", reserved)
    layers = list(made.values())
    new_blobs, new_names = _new_names(layers, image, reserved, weights)
    _rename(layers, new_blobs, new_names)
    for branch in branches:
        made[branch.loss].bottom.append(head.label(1))
    taken = reserved | {name for layer in layers for name in (layer.name, *layer.top)}

    blob, shape = _as_vector(
        layers, new_blobs.get(feature.blob, feature.blob), blobs[feature.blob][1:], how
    )
    dropped = blob
    for position in feature.dropouts[:1]:
        layer = _copy(graph[position], set(PHASES))  # in tests dropout passes all on
        layer.name = dropped = _apart(layer.name, taken)
        layer.bottom[:], layer.top[:] = [blob], [dropped]
        layers.append(layer)
    _add_silence(layers, {blob, dropped})
    gone = {*kept, *training, *feature.dropouts}
    return Backbone(
        layers=tuple(layers),
        feature=blob,
        dropped=dropped,
        shape=shape,
        weights=weights,
        auxiliary=tuple(made[branch.classifier].name for branch in branches),
        left_out=tuple(
            dict.fromkeys(
                node.layer.name
                for position, node in enumerate(graph)
                if position not in gone and not node.source
            )
        ),
        renamed={
            old: new for names in (new_blobs, new_names) for old, new in names.items() if old != new
        },
    )
