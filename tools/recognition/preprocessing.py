"""From the pixels of a photograph to the input of a net, as the net's training saw them.

The file is decoded, cut and resized by the code that builds the LMDBs (data_prep/pipeline.py); the
crop and the mean follow Caffe's transformation in test phase (src/caffe/data_transformer.cpp).
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import lmdb_io, manifest as manifests
from data_prep.build_options import BuildOptions
from data_prep.common import files, typed
from data_prep.common.errors import UserError
from data_prep.common.text import read_json
from tools import solver_net
from tools.inputs import build_command
from tools.nets import rules

FILE = "preprocessing.json"
VERSION = 1
CROPS = (1, 5, 10)  # the middle; the corners and the middle; these and their mirror images


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the input of a net; the content of preprocessing.json.

    squeeze    height and width that the photograph is scaled to, whatever its shape
    shorter    or the length that its shorter side is scaled to
    crop       height and width of the middle part that the net reads
    mean       blue, green, red, subtracted from 0..255
    scale      factor after that
    input      name of the net's input, N x 3 x height x width
    context    margin around boxes, as a share of their sides
    mirror     whether mirror images were among the training images; None: unknown
    mean_file  mean image of the stored size, subtracted instead of `mean`; not in exported folders
    """

    crop: tuple[int, ...]
    mean: tuple[float, ...]
    squeeze: tuple[int, ...] | None = None
    shorter: int | None = None
    scale: float = 1.0
    color: str = "BGR"
    input: str = "data"
    context: float | None = None
    mirror: bool | None = None
    mean_file: str | None = None
    version: int = VERSION

    def __post_init__(self):
        if self.version != VERSION:
            raise ValueError(f"version is {self.version}, and this program reads {VERSION}")
        if self.color != "BGR":
            raise ValueError("color is not BGR")
        if (self.squeeze is None) == (self.shorter is None):
            raise ValueError("it has not exactly one of squeeze and shorter")
        sides = self.squeeze or (self.shorter, self.shorter)
        if len(self.crop) != 2 or len(sides) != 2 or sides[0] != sides[1]:
            raise ValueError("crop and squeeze are not pairs, and squeeze one of equal numbers")
        if not all(0 < part <= sides[0] for part in self.crop):
            raise ValueError(f"crop is not between 1 and {sides[0]}")
        if len(self.mean) != 3:
            raise ValueError("mean is not of three numbers")

    @property
    def options(self):
        """The data_prep.build_options.BuildOptions that make the pixels."""
        how = "squeeze" if self.squeeze else "shorter"
        size = self.squeeze[0] if self.squeeze else self.shorter
        return BuildOptions(size=size, resize=how, encoded="raw", context=self.context or 0.0)

    @property
    def words(self):
        """The steps in one sentence."""
        if self.squeeze:
            scaled = "Squeeze the photograph to {} x {} pixels".format(*self.squeeze)
        else:
            scaled = f"Scale the photograph to a shorter side of {self.shorter} pixels"
        mean = self.mean_file or " ".join(f"{value:g}" for value in self.mean)
        height, width = self.crop
        times = f", multiply by {self.scale:g}" if self.scale != 1 else ""
        return (
            f"{scaled} (large JPEGs are decoded at 1/2, 1/4 or 1/8 first; shrinking to less than "
            "half averages areas, otherwise linear interpolation), take the middle "
            f"{height} x {width}, channels blue, green, red in 0..255, subtract {mean}{times}: "
            f"input {self.input}, N x 3 x {height} x {width}, float32."
        )

    def blob(self, image, crops=1):
        """The net's input, float32, crops x 3 x h x w, of an image as an LMDB would store it.

        image: uint8 height x width x 3, BGR. crops: of CROPS, in the order of Caffe's
        caffe.io.oversample; 1 is what Caffe reads in test phase.
        """
        height, width = self.crop
        down, right = image.shape[0] - height, image.shape[1] - width
        places = [(down // 2, right // 2)]
        if crops > 1:
            places = [(0, 0), (0, right), (down, 0), (down, right), *places]
        blob = np.empty((crops, 3, height, width), np.float32)
        mean = self._mean(image.shape)
        for number, (top, left) in enumerate(places):
            place = np.s_[:, top : top + height, left : left + width]
            pixels = image.transpose(2, 0, 1)[place]  # 3 x h x w
            np.subtract(pixels, mean[place] if mean.shape[1] > 1 else mean, out=blob[number])
        if crops == 10:
            blob[5:] = blob[:5, :, :, ::-1]
        if self.scale != 1:
            blob *= np.float32(self.scale)
        return blob

    def _mean(self, shape):
        """float32, 3 x 1 x 1 or 3 x height x width, to subtract from an image of this shape."""
        if not self.mean_file:
            return np.array(self.mean, np.float32).reshape(3, 1, 1)
        mean = _mean_image(self.mean_file)
        if mean.shape[1:] != shape[:2]:
            raise UserError(
                f"{self.mean_file} is {mean.shape[2]} x {mean.shape[1]}, the image "
                f"{shape[1]} x {shape[0]}: Caffe subtracts a mean image of the same size only"
            )
        return mean


@functools.cache
def _mean_image(path):
    try:
        mean = lmdb_io.read_mean(files.existing(path, "mean image"))
        if mean.shape[0] != 3:
            raise ValueError
    except UserError:
        raise
    except Exception:  # each of protobuf's implementations has its own DecodeError
        raise UserError(f"{path} is not a mean image of three channels") from None
    return mean


def of_solver(solver):
    """The Preprocessing of a solver's test net, and the folder of its data set.

    solver: caffe_pb2.SolverParameter. Raises UserError if the data set is not there or is not one
    of data_prep/build_lmdb.py, or if the net reads images that no photograph can be made into.
    """
    from tools.pycaffe import TEST, TRAIN

    net = solver_net.read_net(solver)
    stages = solver.test_state[0].stage if solver.test_state else ()
    layer = _data_layer(net, TEST, stages)
    if layer is None:
        raise UserError(f"net {solver.net} has no test Data layer with the top data")
    folder = Path(layer.data_param.source).parent
    if not (folder / manifests.FILE).is_file():
        raise UserError(
            f"{folder / manifests.FILE} not found: it tells how the images of {solver.net} were "
            f"made; build the data set, from the repository root, with "
            f"{build_command(folder)}, or use an exported model with --model"
        )
    options = manifests.read(folder).options
    size, squeezed = options.size, options.resize == "squeeze"
    param = layer.transform_param
    if param.force_gray:
        raise UserError(f"layer {layer.name} of {solver.net} reads gray images: only color is read")
    if not (param.crop_size or squeezed):
        raise UserError(
            f"layer {layer.name} of {solver.net} has no crop_size, and the images in {folder} have "
            "different shapes"
        )
    if param.crop_size > size:
        raise UserError(
            f"layer {layer.name} of {solver.net} takes {param.crop_size} x {param.crop_size} "
            f"pixels, but {folder} has images of {size}: build it with --size"
        )
    mean = tuple(param.mean_value) or (0.0,)
    trained = _data_layer(net, TRAIN, solver.train_state.stage)
    return Preprocessing(
        squeeze=(size, size) if squeezed else None,
        shorter=None if squeezed else size,
        crop=(param.crop_size or size,) * 2,
        mean=mean * 3 if len(mean) == 1 else mean,
        scale=param.scale,
        context=options.context or None,
        mirror=None if trained is None else trained.transform_param.mirror,
        mean_file=param.mean_file or None,
    ), folder


def _data_layer(net, phase, stages):
    layers = rules.select(net, phase, stages).layer
    return next((one for one in layers if one.type == "Data" and "data" in one.top), None)


def write(folder, preprocessing):
    """Write preprocessing.json, with the steps in words."""
    if preprocessing.mean_file:
        raise UserError(
            f"the net subtracts the mean image {preprocessing.mean_file}, and an exported model a "
            "mean color: name mean_value in the net's test Data layer"
        )
    content = typed.to_json(preprocessing)
    order = ("version", "input", "color", "squeeze", "shorter", "crop", "mean", "scale")
    content = {key: content.pop(key) for key in order if key in content} | content
    content["words"] = preprocessing.words
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    files.write_whole(Path(folder) / FILE, text)


def read(folder):
    """The Preprocessing in a folder; raises UserError."""
    path = Path(folder) / FILE
    found = typed.from_json(
        Preprocessing, read_json(path, "the preprocessing"), f"{path} is not a preprocessing"
    )
    if found.mean_file:
        raise UserError(f"{path} names a mean_file: an exported model has a mean color")
    return found
