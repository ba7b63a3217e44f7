"""Computes a net's feature of crops of stored images, as Caffe's own test would."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.common.errors import UserError
from tools import caffe_errors, solver_net
from tools.nets import diagram, rules
from tools.nets.sources import mean_color
from tools.pycaffe import TEST, TRAIN

# Caffe's oversampling: the center and the corners, as shares of the room around a crop.
PLACES = {
    "center": (0.5, 0.5),
    "top-left": (0, 0),
    "bottom-right": (1, 1),
    "top-right": (0, 1),
    "bottom-left": (1, 0),
}
MIRRORED = "-mirrored"


def crop_names(mirror):
    """Names of the crops, the center first. mirror: whether mirrored ones belong to them."""
    return [place + kind for place in PLACES for kind in ("", MIRRORED)[: 1 + mirror]]


def crop(image, name, side):
    """The crop of an image, uint8 height x width x 3, as uint8 side x side x 3."""
    place = name.removesuffix(MIRRORED)
    top, left = (
        int(share * (length - side)) for share, length in zip(PLACES[place], image.shape[:2])
    )
    part = image[top : top + side, left : left + side]
    return part[:, ::-1] if name.endswith(MIRRORED) else part


@dataclass(frozen=True)
class FeatureNet:
    """A net up to its feature.

    net     caffe.Net with the input `data`, n x 3 x side x side
    digest  SHA-256 of its NetParameter
    blob    name of the feature, n x C or n x C x 1 x 1
    side    of the input, pixels
    mean    blue, green, red, subtracted from the pixels
    scale   factor of the difference
    mirror  whether the training mirrors images
    source  pathlib.Path of the data set that the solver reads
    """

    net: object
    digest: str
    blob: str
    side: int
    mean: np.ndarray
    scale: float
    mirror: bool
    source: Path

    @property
    def channels(self):
        return int(np.prod(self.net.blobs[self.blob].shape[1:]))

    def features(self, crops):
        """float32, n x C, of n crops, uint8 side x side x 3. Raises UserError where Caffe fails."""
        pixels = np.stack(crops).astype(np.float32) - self.mean  # n x side x side x 3
        data = self.net.blobs["data"]
        if data.shape[0] != len(crops):
            data.reshape(len(crops), *data.shape[1:])
        data.data[...] = (pixels * self.scale).transpose(0, 3, 1, 2)
        with caffe_errors.refusals("Caffe can't compute the features"):
            self.net.forward()
        values = self.net.blobs[self.blob].data.reshape(len(crops), -1).copy()
        if not np.isfinite(values).all():
            raise UserError("the features hold nan or inf: are these the weights of the net?")
        return values


def feature_net(path, weights, blob=None):
    """FeatureNet of a solver's test state, with the weights of a caffemodel.

    blob: name, instead of that of the feature. Raises UserError for a net without the head of
    tools/make_prototxt.py, without square crops of images, or whose weights are not complete.
    """
    solver = solver_net.read_solver(path)
    whole = solver_net.read_net(solver)
    stages = tuple(solver.train_state.stage)
    tested = rules.select(whole, TEST, stages)
    data = {
        phase: layer
        for phase in (TRAIN, TEST)
        for layer in rules.select(whole, phase, stages).layer
        if layer.type == "Data" and "data" in layer.top
    }
    if len(data) < 2 or not data[TEST].transform_param.crop_size:
        raise UserError(f"net {solver.net} reads no crops of images from a Data layer `data`")
    if blob is None:
        try:
            blob = diagram.diagram(whole, stages).feature
        except ValueError as error:
            raise UserError(f"net {solver.net} {error}; name a blob with --blob") from None
    layers = rules.needed_for(tested, [blob])
    if not any("data" in layer.bottom for layer in layers):
        raise UserError(f"net {solver.net} has no blob {blob} that depends on the images")
    transform, side = data[TEST].transform_param, data[TEST].transform_param.crop_size
    del tested.layer[:]
    tested.layer.extend(layers)
    for layer in tested.layer:
        del layer.include[:]  # the stages have been applied
        if layer.type == "Data":
            layer.Clear()
            layer.name, layer.type = "data", "Input"
            layer.top.append("data")
            layer.input_param.shape.add().dim.extend((1, 3, side, side))
    mean = mean_color(transform.mean_file) if transform.mean_file else transform.mean_value
    remedy = "give the weights that the training starts from or ended with"
    return FeatureNet(
        solver_net.load_net(tested, solver.net, weights, remedy),
        hashlib.sha256(tested.SerializeToString(deterministic=True)).hexdigest(),
        blob,
        side,
        np.array(mean or (0, 0, 0), np.float32),
        transform.scale,
        data[TRAIN].transform_param.mirror,
        Path(data[TEST].data_param.source).parent,
    )
