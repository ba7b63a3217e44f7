"""Reads size, mean and scale of a net's images from its data layers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from data_prep.color import IMAGENET_BGR_MEAN
from data_prep.common.errors import UserError
from tools.pycaffe import TRAIN, caffe_pb2

from . import foreign

WITHOUT_TRANSFORM = {"DummyData", "HDF5Data", "Input", "Python"}  # they pass values on


@dataclass(frozen=True)
class Images:
    """The images that a net reads.

    blob        name of the input
    crop        side of the square images; 0: unknown
    transform   fields of a TransformationParameter: mean_value, scale
    said        where the transformation comes from, in words
    """

    blob: str
    crop: int
    transform: dict
    said: str


def mean_color(path):
    """Blue, green, red: the mean image in a .binaryproto, averaged over its positions."""
    try:
        blob = caffe_pb2.BlobProto.FromString(Path(path).read_bytes())
        return tuple(
            round(float(value), 3)
            for value in np.reshape(blob.data, (3, -1)).mean(axis=1, dtype=np.float64)
        )
    except (DecodeError, ValueError):
        raise UserError(
            f"{path} is not a mean image of three channels: give --mean B,G,R"
        ) from None


def find_images(nodes, blob, unknown=(), *, crop=0, mean=None, scale=None):
    """Images of a blob as the prototxt's sources of it state them.

    unknown             forks.Unknown of the file
    crop, mean, scale   used instead of what is stated

    Raises UserError where the sources state images that are not square or not in color, or a mean
    that is not one of colors.
    """
    sources = [
        node.layer
        for node in sorted(nodes, key=lambda node: TRAIN not in node.phases)
        if node.source and blob in node.layer.top
    ]
    for layer in sources:
        gray = layer.transform_param.force_gray or (
            layer.type == "ImageData" and not layer.image_data_param.is_color
        )
        if gray:
            raise UserError(
                f"layer {layer.name} ({layer.type}) reads gray images: only nets that read color "
                "images can be grafted"
            )
    sides = [_side(layer, blob, unknown, crop) for layer in sources]
    side = next(filter(None, sides), 0) or next(filter(None, _built(sources, blob)), 0)
    transform, said = _transform(sources, given=mean is not None)
    if mean is not None:
        transform = {**transform, "mean_value": mean if any(mean) else ()}
    if scale is not None:
        transform = {**transform, "scale": scale}
    return Images(blob, side, {name: value for name, value in transform.items() if value}, said)


def _of_top(values, layer, blob):
    """The value for a blob, of values given once for all tops or once per top; None: not given."""
    index = list(layer.top).index(blob)
    return values[index if len(values) > 1 else 0] if len(values) in (1, len(layer.top)) else None


def _stated_shape(layer, blob):
    """N, channels, height, width that the layer's parameters state; None where they do not."""
    if layer.type == "Input":
        shape = _of_top(layer.input_param.shape, layer, blob)
        return shape and tuple(shape.dim)
    if layer.type == "DummyData":
        param = layer.dummy_data_param
        shape = _of_top(param.shape, layer, blob)
        old = (param.num, param.channels, param.height, param.width)
        sizes = tuple(_of_top(values, layer, blob) for values in old)
        return tuple(shape.dim) if shape else sizes if all(sizes) else None
    if layer.type == "MemoryData" and layer.top[0] == blob:
        param = layer.memory_data_param
        sizes = (param.batch_size, param.channels, param.height, param.width)
        return sizes if all(sizes[1:]) else None
    return None


def _side(layer, blob, unknown, crop):
    """Side of the square images that a source states, or `crop` if given; 0 where it does not."""
    shape = _stated_shape(layer, blob)
    if shape:
        _check_color(blob, shape)
    if crop:
        return crop
    if shape:
        return _square(layer, *shape[2:])
    if layer.transform_param.crop_size:
        return layer.transform_param.crop_size
    if layer.type == "ImageData":
        return _square(layer, layer.image_data_param.new_height, layer.image_data_param.new_width)
    return _side_elsewhere(layer, unknown)


def _check_color(blob, shape):
    if len(shape) != 4 or shape[1] != 3:
        raise UserError(
            f"input {blob} is {' x '.join(map(str, shape))}: only nets that read color images "
            "(N x 3 x side x side) can be grafted"
        )


def _side_elsewhere(layer, unknown):
    """As _side, of fields that this Caffe does not have: SSD's and others'."""
    values = {}
    for place in unknown:
        if place.layer == layer.name:
            values.update(place.values)
    sizes = {path.split(".", 1)[-1]: value for path, value in values.items()}
    for names in (
        ("crop_h", "crop_w"),
        ("resize_param.height", "resize_param.width"),
        ("new_height", "new_width"),
    ):
        if all(sizes.get(name, "").isdecimal() and len(sizes[name]) < 10 for name in names):
            return _square(layer, *(int(sizes[name]) for name in names))
    return 0


def _square(layer, height, width):
    if height != width:
        raise UserError(
            f"layer {layer.name} ({layer.type}) makes images of {height} x {width}, and the head's "
            "data are square: give --crop"
        )
    return max(height, 0)


def _built(sources, blob):
    """Side of each source's images in its data set, where Caffe can read that."""
    for layer in sources:
        files = (
            layer.data_param.source,
            layer.hdf5_data_param.source,
            layer.image_data_param.source,
        )
        if any(source and Path(source).exists() for source in files):
            shape = foreign.source_shape(layer, blob)
            if shape:
                _check_color(blob, shape)
                yield _square(layer, *shape[2:])


def why_no_size(nodes, blob):
    """One clause: why find_images found no size for a blob."""
    layer = next(node.layer for node in nodes if node.source and blob in node.layer.top)
    said = f"layer {layer.name} ({layer.type})"
    for part, values in _ignored(layer).items():
        if "crop_size" in values:
            return (
                f"{said} states crop_size {values['crop_size']} in {part}, where Caffe ignores it "
                "(it belongs in transform_param)"
            )
    files = [
        param.source
        for param in (layer.data_param, layer.hdf5_data_param, layer.image_data_param)
        if param.source
    ]
    if files:
        return f"{said} states no size of its images, and {files[0]} is not found or not readable"
    return f"{said} states no size of its images"


def _ignored(layer):
    """{part: {field: value}} of a data layer that only the old formats read from there."""
    found = {}
    for part in ("data_param", "image_data_param", "window_data_param"):
        param = getattr(layer, part)
        values = {
            name: getattr(param, name)
            for name in ("crop_size", "mean_file", "scale")
            if param.HasField(name)
        }
        if values:
            found[part] = values
    return found


def _transform(sources, given):
    """({field: value}, where it comes from) of the first source that transforms pixels.

    given: whether the mean is given by the user.
    """
    known = [layer for layer in sources if layer.type not in WITHOUT_TRANSFORM]
    for layer in known:
        param = layer.transform_param
        scale = {"scale": param.scale} if param.scale != 1 else {}
        name = f"layer {layer.name}"
        if param.mean_file and not Path(param.mean_file).is_file():
            said = f"{param.mean_file} of {name} not found: ImageNet's mean, or give --mean"
            return {"mean_value": IMAGENET_BGR_MEAN, **scale}, said
        if not param.mean_file and len(param.mean_value) not in (0, 1, 3) and not given:
            raise UserError(
                f"{name} states {len(param.mean_value)} mean_value: images have 3 channels; give "
                "--mean B,G,R"
            )
        mean = mean_color(param.mean_file) if param.mean_file else tuple(param.mean_value)
        if not mean and not _names_files(layer):
            said = f"ImageNet's mean: {name} states neither a mean nor a data set"
            return {"mean_value": IMAGENET_BGR_MEAN, **scale}, said
        others = [other.name for other in known if _differs(other.transform_param, param)]
        said = f"as {name} states" + (f"; another layer, {others[0]}, differs" if others else "")
        for part, values in _ignored(layer).items():
            said += f"; Caffe ignores {' and '.join(values)} in its {part}"
        return {"mean_value": mean, **scale}, said
    return {"mean_value": IMAGENET_BGR_MEAN}, "ImageNet's mean: the prototxt states none"


def _names_files(layer):
    """Whether a data layer names its files; layer types of Caffe forks always count."""
    param = {
        "Data": layer.data_param,
        "ImageData": layer.image_data_param,
        "WindowData": layer.window_data_param,
    }.get(layer.type)
    return bool(param.source) if param is not None else layer.type != "MemoryData"


def _differs(one, other):
    """Whether two TransformationParameters give pixels different values."""
    return (one.scale, one.mean_file, list(one.mean_value)) != (
        other.scale,
        other.mean_file,
        list(other.mean_value),
    )
