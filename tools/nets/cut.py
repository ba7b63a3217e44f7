"""The backbone of a network: its layers up to the feature that a new head will read.

The layers that the feature depends on keep their names, so that trained weights still load by name.
Auxiliary classifiers that branch off before the feature are kept too. The feature is read after
ReLU and before dropout; a dropout in place gets a blob of its own.
"""

import difflib
from dataclasses import dataclass

from data_prep.common.errors import UserError
from tools.pycaffe import TEST, TRAIN, caffe_pb2

from . import head
from .graph import PHASES, downstream, upstream

# Types that may follow the last classifier, besides those whose name ends with Loss.
AFTER_CLASSIFIER = {
    *("AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU", "Sigmoid"),
    *("Softmax", "Swish", "TanH", "Threshold"),
    *("Dropout", "Flatten", "Pooling", "Reduction", "Reshape"),
    *("Accuracy", "ArgMax", "HDF5Output", "Python", "Silence", "Slice", "Split"),
}
# Classifiers of other Caffes, which read the feature and the labels.
OTHER_CLASSIFIERS = {"MarginInnerProduct"}
WEIGHTED = {"Convolution", "Deconvolution", "Embed", "InnerProduct", "LSTM", "RNN"}
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

    blob        name of the blob
    stop        position after the last layer that writes it, dropout excepted
    dropouts    positions of the Dropout layers in place on it, or of one that reads it
    """

    blob: str
    stop: int
    dropouts: tuple


@dataclass(frozen=True)
class Auxiliary:
    """A classifier that branches off before the feature, as positions in the graph."""

    own: frozenset
    classifier: int
    loss: int


@dataclass(frozen=True)
class Backbone:
    """The layers up to the feature, and what was changed.

    layers      LayerParameters, from the blob `data` to `feature` and `dropped`
    feature     blob that the large-margin loss reads
    dropped     blob that classifiers read: the same after dropout, if the net has one
    shape       of the feature, without the batch: (C,) or (C, 1, 1)
    weights     {layer: shapes of its weights}, without the auxiliary classifiers
    auxiliary   names of the auxiliary classifiers, which still have the original's classes
    left_out    names of the layers that were removed
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


def _filter(layer):
    """Height and width of a convolution's filters, as written: [1], [3], [1, 3] ..."""
    param = layer.convolution_param
    return [*param.kernel_size] or [param.kernel_h, param.kernel_w]


def _classifies(layer):
    """Whether the layer can be a classifier: fully connected, or a 1 x 1 convolution."""
    return bool(layer.bottom) and (
        layer.type in ("InnerProduct", *OTHER_CLASSIFIERS)
        or (layer.type == "Convolution" and set(_filter(layer)) == {1})
    )


def _not_an_output(graph, position):
    """The first test layer after `position` that is more than an output of scores, or None."""
    for later in downstream(graph, position, TEST):
        layer = graph[later].layer
        if layer.type not in AFTER_CLASSIFIER and not layer.type.endswith("Loss"):
            return layer
    return None


def find_classifier(graph):
    """Position of the last fully connected layer or 1 x 1 convolution, the net's classifier.

    None if layers other than losses, activations and the like follow it.
    """
    for position in reversed(range(len(graph))):
        node = graph[position]
        if TEST in node.phases and _classifies(node.layer):
            return None if _not_an_output(graph, position) else position
    return None


def map_of(graph):
    """How the net's classifier (find_classifier) computes scores from a feature map.

    "flatten": it reads all positions concatenated. "pool": its scores are averaged over positions.
    None: neither.
    """
    classifier = find_classifier(graph)
    if graph[classifier].layer.type != "Convolution":
        return "flatten"
    for later in downstream(graph, classifier, TEST):
        param = graph[later].layer.pooling_param
        if graph[later].layer.type == "Pooling" and param.pool == caffe_pb2.PoolingParameter.AVE:
            return "pool"
    return None


def why_no_classifier(graph):
    """One clause that says why find_classifier found none."""
    for position in reversed(range(len(graph))):
        layer = graph[position].layer
        if TEST in graph[position].phases and _classifies(layer):
            later = _not_an_output(graph, position)
            return (
                f"its last fully connected layer or 1 x 1 convolution, {layer.name}, is followed "
                f"by {later.name} ({later.type}), so it may not be the classifier"
            )
    for node in reversed(graph):
        if TEST in node.phases and node.layer.type in WEIGHTED:
            sides = _filter(node.layer)
            filters = " x ".join(map(str, sides if len(sides) > 1 else sides * 2))
            kind = node.layer.type + (
                f", {filters}" if node.layer.convolution_param.kernel_size else ""
            )
            return (
                "it has no fully connected layer or 1 x 1 convolution; its last layer with weights "
                f"is {node.layer.name} ({kind})"
            )
    return "it has no fully connected layer or 1 x 1 convolution"


def _unknown(graph, blob):
    """UserError that names the nearest blobs."""
    for node in graph:
        if node.source and blob in node.layer.top:
            raise UserError(f"blob {blob} is an input, not a feature (--list-features shows all)")
        if node.layer.name == blob and node.layer.top:
            raise UserError(f"{blob} is a layer: name the blob that it writes, {node.layer.top[0]}")
    blobs = list(dict.fromkeys(top for node in graph if not node.source for top in node.layer.top))
    near = difflib.get_close_matches(blob, blobs, n=3, cutoff=0.4)
    raise UserError(
        f"the net has no blob {blob}"
        + (f": did you mean {' or '.join(near)}?" if near else "")
        + " (--list-features shows all)"
    )


def _before_dropout(graph, blob):
    """The blob, or, where a Dropout layer of its own writes it, the one before."""
    for _ in graph:
        first = next((node.layer for node in graph if node.writes(blob)), None)
        if first is None or first.type != "Dropout" or blob in first.bottom:
            break
        blob = first.bottom[0]
    return blob


def find_feature(graph, blob):
    """Feature of a blob; for the output of a dropout, that of its input.

    Raises UserError if no layer writes the blob in both phases, or if a layer that is not ReLU
    works on it after dropout in place.
    """
    blob = _before_dropout(graph, blob)
    writers = [position for position, node in enumerate(graph) if node.writes(blob)]
    dropouts = [writer for writer in writers if graph[writer].layer.type == "Dropout"]
    kept = [writer for writer in writers if writer not in dropouts]
    if not kept:
        _unknown(graph, blob)
    for phase, name in zip(PHASES, ("training", "tests")):
        if not any(phase in graph[writer].phases for writer in writers):
            raise UserError(f"blob {blob} does not exist in {name}: name another --feature")
    for writer in kept:
        layer = graph[writer].layer
        if dropouts and writer > dropouts[0] and layer.type not in COMMUTE_WITH_DROPOUT:
            raise UserError(
                f"layer {layer.name} ({layer.type}) works on {blob} after dropout, so the "
                "feature before dropout is not available: name another --feature"
            )
    if not dropouts:
        dropouts = [
            position
            for position, node in enumerate(graph)
            if node.layer.type == "Dropout" and node.layer.bottom[:1] == [blob]
        ][:1]
    return Feature(blob, kept[-1] + 1, tuple(dropouts))


def image_of(graph, feature):
    """Name of the one blob of images that the feature depends on.

    Raises UserError if it depends on several inputs, or on a blob that nothing writes.
    """
    inputs, needed = set(), set()
    for phase in PHASES:
        positions, blobs = upstream(graph, [feature.blob], phase, feature.stop)
        needed |= positions
        inputs |= blobs
    written = {top for node in graph if node.source for top in node.layer.top}
    for blob in sorted(inputs - written):
        raise _unwritten(graph, needed, blob)
    if len(inputs) != 1:
        raise UserError(
            f"{feature.blob} depends on several inputs ({', '.join(sorted(inputs))}): "
            "only nets that read images alone can be grafted"
        )
    return inputs.pop()


def _unwritten(graph, needed, blob):
    """UserError about a blob that a layer reads before it exists. needed: positions of layers."""
    reader = min(position for position in needed if blob in graph[position].layer.bottom)
    layer = graph[reader].layer
    said = f"layer {layer.name} ({layer.type}) reads blob {blob}, which no layer before it writes"
    for later in graph[reader:]:
        if blob in later.layer.top and blob not in later.layer.bottom:
            return UserError(f"{said}: {later.layer.name}, after it, does")
    before = {top for node in graph[:reader] for top in node.layer.top}
    near = difflib.get_close_matches(blob, sorted(before), n=1, cutoff=0.5)
    return UserError(said + (f": did you mean {near[0]}?" if near else ""))


def _find_auxiliary(graph, backbone, feature, image):
    """[Auxiliary] of the softmax losses, in training, that do not depend on the feature."""
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
    """A copy of the layer with weight fillers, and a rule if it is for one phase only."""
    layer = caffe_pb2.LayerParameter()
    layer.CopyFrom(node.layer)
    layer.ClearField("exclude")
    layer.ClearField("include")
    if len(phases) == 1:
        layer.include.add(phase=min(phases))
    for part, types in LEARNED.items():
        # Deploy files have none, and weights of zero, Caffe's default, do not learn.
        if layer.type in types and not getattr(layer, part).HasField("weight_filler"):
            getattr(layer, part).weight_filler.type = "msra"
    return layer


def _rename(layers, blobs, names):
    for layer in layers:
        layer.name = names.get(layer.name, layer.name)
        layer.bottom[:] = [blobs.get(blob, blob) for blob in layer.bottom]
        layer.top[:] = [blobs.get(blob, blob) for blob in layer.top]


def _apart(name, taken):
    """The name, with a suffix if it is taken."""
    while name in taken:
        name += "_backbone"
    return name


def _new_names(layers, image, reserved, weighted):
    """({blob: new name}, {layer: new name}) that differ from the reserved names.

    Raises UserError if a layer of `weighted` would need a new name, since its weights would not
    load.
    """
    own = {blob for layer in layers for blob in (*layer.bottom, *layer.top)}
    blobs = {blob: _apart(blob, reserved | own) for blob in sorted(own & reserved) if blob != image}
    blobs[image] = "data"
    names = {layer.name for layer in layers}
    clashing = sorted(names & reserved)
    for name in clashing:
        if name in weighted:
            raise UserError(
                f"layer {name} has weights and the same name as a layer of the head: rename "
                "it in the net and in its caffemodel"
            )
    return blobs, {name: _apart(name, reserved | names) for name in clashing}


def _add_silence(layers, used):
    """Silence blobs that nothing reads, which Caffe would print. Losses stay as they are."""
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
    """Add the layer that makes a vector of a C x H x W feature; returns its blob."""
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
    """(blob, shape) of the feature: averaged or joined over its positions if it has several."""
    if len(shape) != 3 or shape[1:] == (1, 1):
        return feature, shape
    c, h, w = shape
    if not how:
        raise UserError(
            f"feature {feature} has {h} x {w} positions of {c} numbers: add --map pool "
            "to average over them or --map flatten to join them, or name another "
            "--feature"
        )
    return _add_map(layers, feature, how), (c, 1, 1) if how == "pool" else (c * h * w,)


def cut(graph, feature, image, shapes, *, reserved, how=None, auxiliary=True):
    """Backbone of a graph.

    feature     Feature
    image       blob of the images
    shapes      ({blob: shape}, {layer with weights: shapes}) as foreign.shapes gives them
    reserved    names of the head's layers and blobs
    how         "pool" or "flatten", for a feature of more than one position
    auxiliary   whether to keep the auxiliary classifiers
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
        del made[branch.loss].bottom[1:]  # the label; the head's follows
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
        layer = _copy(graph[position], set(PHASES))  # in tests dropout changes nothing
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
