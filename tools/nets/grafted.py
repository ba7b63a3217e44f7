"""A network of any origin as a tables.Net: whatever is written for ours is written for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from data_prep.color import IMAGENET_BGR_MEAN
from data_prep.common.errors import UserError
from tools.pycaffe import TEST, TRAIN, caffe_pb2

from . import backbones, cut, deploy, foreign, graph, head, tables

MOST_LEVELS = 9  # of a label tree, as evaluate.py reads them
FILLER = backbones.gaussian(0.01)  # of classifiers, where the original's file gives none
SCHEDULE = tables.Schedule(batch=32, epochs=60)


@dataclass(frozen=True)
class GraftedNet(tables.Net):
    """A tables.Net whose layers are those of a cut.Backbone."""

    backbone: object = None

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


@dataclass(frozen=True)
class Images:
    """What a net reads. told: does its file say how pixels are transformed?"""

    blob: str
    crop: int
    transform: dict
    told: bool


def _side(shape, blob):
    """Side of the square images of an input of this shape; UserError if it is none of images."""
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise UserError(
            f"input {blob} is {' x '.join(map(str, shape))}: only nets that read "
            "colour images (N x 3 x side x side) can be grafted"
        )
    return shape[2]


def mean_colour(path):
    """Blue, green, red: the mean image in a .binaryproto, averaged over its positions."""
    try:
        blob = caffe_pb2.BlobProto.FromString(Path(path).read_bytes())
        return tuple(
            round(float(value), 3)
            for value in np.reshape(blob.data, (3, -1)).mean(axis=1, dtype=np.float64)
        )
    except (DecodeError, ValueError):
        raise UserError(f"{path} is no mean image of three channels: give --mean B,G,R") from None


def find_images(nodes, blob):
    """Images that the sources of a blob tell of; a mean image becomes its mean colour.

    Side 0: no source tells it. A mean file that isn't there: ImageNet's mean colour, as not told.
    """
    sources = sorted(
        (node for node in nodes if node.source and blob in node.layer.top),
        key=lambda node: TRAIN not in node.phases,
    )
    crop, transform, told = 0, dict(mean_value=IMAGENET_BGR_MEAN), False
    for layer in (node.layer for node in sources):
        if layer.type == "Input":
            shapes = layer.input_param.shape
            index = list(layer.top).index(blob) if len(shapes) > 1 else 0
            crop = crop or (_side(list(shapes[index].dim), blob) if shapes else 0)
        elif not told:
            param = layer.transform_param
            if param.force_gray:
                raise UserError(
                    f"layer {layer.name} makes images grey: only nets that read colour "
                    "images can be grafted"
                )
            crop = crop or param.crop_size
            here = not param.mean_file or Path(param.mean_file).is_file()
            mean = (
                tuple(param.mean_value)
                if not param.mean_file
                else mean_colour(param.mean_file)
                if here
                else IMAGENET_BGR_MEAN
            )
            transform = {
                **({"mean_value": mean} if mean else {}),
                **({"scale": param.scale} if param.scale != 1 else {}),
            }
            told = here
    return Images(blob, crop, transform, told)


def image_layers(nodes, image):
    """LayerParameters, in tests, that depend on the images alone."""
    there, found = {image}, []
    for node in nodes:
        if TEST in node.phases and not node.source and there.issuperset(node.layer.bottom):
            found.append(node.layer)
            there.update(node.layer.top)
    return found


def layers_before(nodes, feature):
    """LayerParameters, in tests, that a cut.Feature depends on."""
    return [
        nodes[position].layer
        for position in sorted(graph.upstream(nodes, [feature.blob], TEST, feature.stop)[0])
    ]


def activations(nodes, blob):
    """Blobs that a ReLU of its own kind makes of this blob, not in place."""
    return [
        node.layer.top[0]
        for node in nodes
        if node.layer.type in ("ReLU", "PReLU", "ELU")
        and node.layer.bottom[0] == blob != node.layer.top[0]
    ]


def _stored(crop):
    """Side of the images that crops of this side are taken from: 256 for 224, as the zoo's."""
    return max(256, -(-crop * 8 // (7 * 32)) * 32)


def _reserved():
    """Names of layers and blobs of the head, its data and its deploy file."""
    proto = caffe_pb2.NetParameter()
    head.add_slice(proto, MOST_LEVELS)
    head.add_head(proto, "data", "data", [2] * MOST_LEVELS, FILLER, {}, True, diagnostics=True)
    layers = [*proto.layer, *deploy.deploy(proto, tables.STAGES["ours"], MOST_LEVELS, 1).layer]
    return {"label", *(name for layer in layers for name in (layer.name, *layer.top))}


def classifier_filler(nodes):
    """Weight filler of the net's own classifier as a dict; None where its file gives none."""
    position = cut.find_classifier(nodes)
    if position is not None:
        layer = nodes[position].layer
        part = (
            layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
        )
        if part.HasField("weight_filler"):
            return {field.name: value for field, value in part.weight_filler.ListFields()}
    return None


def graft(nodes, feature, images, name, weights, *, how=None, auxiliary=True):
    """GraftedNet of a graph.

    feature   cut.Feature
    images    Images, with its crop
    name      of the net in file names
    weights   path of the trained weights, for what is typed
    how, auxiliary   see cut.cut
    """
    shapes = foreign.shapes(
        layers_before(nodes, feature), {images.blob: [1, 3, images.crop, images.crop]}, name
    )
    backbone = cut.cut(
        nodes, feature, images.blob, shapes, reserved=_reserved(), how=how, auxiliary=auxiliary
    )
    auxiliary_note = ["Auxiliary classifier of the original, in training, of the fine classes."]
    return GraftedNet(
        name=name,
        title=name,
        column=None,
        crop=images.crop,
        feature=backbone.feature,
        dropped=backbone.dropped,
        weights=weights,
        filler=classifier_filler(nodes) or FILLER,
        weight_decay=0.0005,
        origin="usual in fine-tuning",
        policy=(("lr_policy", "poly", "down to 0 at max_iter, linearly"), ("power", 1.0, None)),
        schedule=SCHEDULE,
        test_batch=50,
        pooled=len(backbone.shape) == 3,
        stored=_stored(images.crop),
        transform=images.transform,
        written_by="tools/graft.py",
        backbone=backbone,
        notes=dict.fromkeys(backbone.auxiliary, auxiliary_note),
    )
