"""Turns another author's network into a tables.Net, for which the usual files can be written."""

import math
from dataclasses import dataclass

from tools.pycaffe import TEST, caffe_pb2

from . import backbones, cut, deploy, foreign, graph, head, losses, schedules, smoothing, tables
from .data import stored_for

MOST_LEVELS = 9  # of a label tree, as evaluate.py reads them
FILLER = backbones.gaussian(0.01)  # of classifiers, where the original's file has none
SCHEDULE = tables.Schedule(batch=32, epochs=60)


@dataclass(frozen=True)
class GraftedNet(tables.Net):
    """A tables.Net whose layers are those of a cut.Backbone."""

    backbone: object = None

    @property
    def width(self):
        """Values of the feature."""
        return math.prod(self.backbone.shape)

    def layers(self, classes, crop):
        """[LayerParameter] of the backbone; auxiliary classifiers get `classes` outputs."""
        layers = []
        for layer in self.backbone.layers:
            if layer.name in self.backbone.auxiliary:
                original, layer = layer, caffe_pb2.LayerParameter()
                layer.CopyFrom(original)
                part = (
                    "inner_product_param" if layer.type == "InnerProduct" else "convolution_param"
                )
                getattr(layer, part).num_output = classes
                biased = getattr(layer, part).bias_term
                layer.ClearField("param")
                for spec in backbones.NEW[: 2 if biased else 1]:
                    layer.param.add(**spec)
            layers.append(layer)
        return layers


def image_layers(nodes, image, unknown=()):
    """LayerParameters, in tests, that depend on the images alone.

    Without the layers that `unknown` (forks.Unknown) names, and those after them.
    """
    left_out = {place.layer for place in unknown}
    available, found = {image}, []
    for node in nodes:
        layer = node.layer
        if TEST not in node.phases or node.source:
            continue
        if available.issuperset(layer.bottom) and layer.name not in left_out:
            found.append(layer)
            available.update(layer.top)
        else:
            available.difference_update(layer.top)
    return found


def layers_before(nodes, feature):
    """LayerParameters, in tests, that a cut.Feature depends on."""
    return [
        nodes[position].layer
        for position in sorted(graph.upstream(nodes, [feature.blob], TEST, feature.stop)[0])
    ]


def activations(nodes, blob):
    """Outputs of the ReLU, PReLU and ELU layers that read this blob, those in place excepted."""
    return [
        node.layer.top[0]
        for node in nodes
        if node.layer.type in ("ReLU", "PReLU", "ELU")
        and node.layer.bottom[:1] == [blob] != node.layer.top[:1] != []
    ]


def _reserved():
    """Names of the layers and blobs of the head, its data and its deploy file."""
    proto = caffe_pb2.NetParameter()
    head.add_slice(proto, MOST_LEVELS)
    sizes = [2] * MOST_LEVELS
    every_loss = losses.net_losses(tables.Labels(sizes, "hierarchy.tsv"))
    head.add_head(
        proto,
        "data",
        "data",
        sizes,
        FILLER,
        every_loss,
        True,
        diagnostics=True,
        skip_input=head.PROBABILITIES,
        width=MOST_LEVELS,
    )
    smoothing.smooth(proto, 0.5, {head.label(level): 2 for level in range(1, MOST_LEVELS + 1)})
    layers = [
        *proto.layer,
        *deploy.deploy(proto, tables.STAGES["ours"], MOST_LEVELS, (3, 1, 1)).layer,
    ]
    return {"label", *(name for layer in layers for name in (layer.name, *layer.top))}


def classifier_filler(nodes):
    """{name of the net's own classifier: its parameters}; {} where they have no weight filler."""
    position = cut.find_classifier(nodes)
    if position is not None:
        layer = nodes[position].layer
        part = (
            layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
        )
        if part.HasField("weight_filler"):
            return {layer.name: part}
    return {}


def _refuse(read, layers):
    """UserError where this Caffe does not read something in one of the layers of these names."""
    places = [place for place in read.unknown if place.layer in layers]
    if places:
        raise foreign.refusal(read.path, places)


def check_known(read, nodes, feature):
    """UserError where this Caffe does not read all of a layer that a cut.Feature depends on."""
    needed = set().union(
        *(graph.upstream(nodes, [feature.blob], phase, feature.stop)[0] for phase in graph.PHASES)
    )
    _refuse(read, {nodes[position].layer.name for position in needed})


def graft(read, nodes, feature, images, name, weights, *, how=None, auxiliary=True):
    """GraftedNet of a net as read.

    read      foreign.ForeignNet
    nodes     graph.nodes of it
    feature   cut.Feature
    images    sources.Images, with its crop
    name      of the net in file names
    weights   path of the trained weights, for the commands in the files
    how, auxiliary   see cut.cut

    Raises UserError where Caffe refuses a layer that is kept, or does not read all of it.
    """
    check_known(read, nodes, feature)
    fillers = classifier_filler(nodes)
    shapes = foreign.shapes(
        layers_before(nodes, feature),
        {images.blob: [1, 3, images.crop, images.crop]},
        read.path,
        fillers,
    )
    filler = {
        field.name: value
        for param in fillers.values()
        for field, value in param.weight_filler.ListFields()
    } or FILLER
    backbone = cut.cut(
        nodes, feature, images.blob, shapes, reserved=_reserved(), how=how, auxiliary=auxiliary
    )
    kept = {node.layer.name for node in nodes if not node.source} - set(backbone.left_out)
    _refuse(read, kept)
    auxiliary_note = ["The original's auxiliary classifier, in training only, of the fine classes."]
    return GraftedNet(
        name=name,
        title=name,
        crop=images.crop,
        feature=backbone.feature,
        dropped=backbone.dropped,
        weights=weights,
        filler=filler,
        weight_decay=0.0005,
        origin="usual in fine-tuning",
        policy=schedules.poly(1.0, "down to 0 at max_iter, linearly"),
        schedule=SCHEDULE,
        test_batch=50,
        pooled=len(backbone.shape) == 3,
        stored=stored_for(images.crop),
        transform=images.transform,
        backbone=backbone,
        notes=dict.fromkeys(backbone.auxiliary, auxiliary_note),
    )
