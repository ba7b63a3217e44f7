"""Runs a scoring net over a split, batch by batch, on center crops or on several crops an image.

The oversampling is that of Krizhevsky, Sutskever, Hinton 2012: the four corners and the center, and
with 10 crops the mirror image of each; probabilities are averaged per level, and so is the feature.
"""

from dataclasses import dataclass, replace

import numpy as np

from data_prep.common import progress, prototxt
from data_prep.common.errors import UserError
from tools import caffe_errors, scores, solver_net
from tools.nets import rules
from tools.recognition.decode import SMALLEST


@dataclass(frozen=True)
class Batch:
    """Answers of the net for consecutive images.

    start    number of the first image
    outputs  {level, 0 = fine: float32, n x C(level)}: class scores, or with several crops the
             logarithms of their mean probabilities
    feature  float32, n x D
    """

    start: int
    outputs: dict
    feature: np.ndarray


def check_crops(solver, scored, train_val, crops):
    """Raises UserError if a net can't be scored on that many crops, of preprocessing.CROPS."""
    from tools.pycaffe import caffe

    if crops == 1:
        return
    if not _data_layer(scored.net).transform_param.crop_size:
        raise UserError(
            f"net {solver.net} reads whole images, without a crop_size: leave out --crops"
        )
    trained = rules.select(train_val, caffe.TRAIN, tuple(solver.train_state.stage))
    if crops == 10 and not _data_layer(trained).transform_param.mirror:
        raise UserError(
            f"net {solver.net} is trained without mirror images, which can look like another "
            "class: use --crops 5"
        )


def _data_layer(net):
    return next(layer for layer in net.layer if layer.top[:1] == ["data"])


def several(scored, crops):
    """(reader, scorer): NetParameters of one that reads whole images, one at a time, as the net
    does, and of the net without its Data layers, with an input `data` for all crops of a batch.
    """
    reader, scorer = type(scored.net)(), type(scored.net)()
    for layer in scored.net.layer:
        if layer.type == "Data":
            reader.layer.add().CopyFrom(layer)
            reader.layer[-1].data_param.batch_size = 1
    side = _data_layer(reader).transform_param.crop_size
    _data_layer(reader).transform_param.ClearField("crop_size")
    given = scorer.layer.add(name="data", type="Input", top=["data"])
    given.input_param.shape.add(dim=[max(1, scored.batch // crops) * crops, 3, side, side])
    scorer.layer.extend(layer for layer in scored.net.layer if layer.type != "Data")
    return reader, scorer


def cut(image, side, crops):
    """float32, crops x 3 x side x side: corners and center of an image, then their mirror images.

    image: 3 x H x W, no smaller than side x side. The center is Caffe's.
    """
    bottom, right = image.shape[1] - side, image.shape[2] - side
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    found = np.stack([image[:, y : y + side, x : x + side] for y, x in places])
    return np.concatenate([found, found[..., ::-1]]) if crops == 10 else found


def averaged(outputs, crops):
    """The logarithms of the mean probabilities, float64 n x C, of scores, n * crops x C."""
    each = scores.softmax(outputs)
    mean = each.reshape(-1, crops, each.shape[1]).mean(axis=1)
    return np.log(np.maximum(mean, SMALLEST))


class Run:
    """A scoring net with its weights, ready to run once over its split.

    scored: solver_net.ScoringNet; weights: path; crops: a number of CROPS, see `check_crops`.
    Raises UserError where solver_net.load does.
    """

    def __init__(self, scored, weights, crops=1):
        from tools.pycaffe import caffe

        self._scored, self._crops, self._reader = scored, crops, None
        if crops == 1:
            self.net = solver_net.load(scored, weights)
        else:
            reader, scorer = several(scored, crops)
            with caffe_errors.refusals(f"Caffe can't read {scored.images} whole"):
                with prototxt.as_file(reader) as path:
                    self._reader = caffe.Net(path, caffe.TEST)
            self.net = solver_net.load(replace(scored, net=scorer), weights)

    def batches(self, labels):
        """Yield a Batch for each forward; the last one ends with the last image.

        labels: N x h, in the order of the LMDB; what Caffe reads is checked against them. The
        arrays of a Batch are valid until the next one.
        """
        each = self._scored.batch if self._reader is None else len(self._inputs()) // self._crops
        with progress.bar("evaluate", "images", len(labels)) as bar:
            for start in range(0, len(labels), each):
                part = labels[start : start + each]
                with caffe_errors.refusals(f"Caffe can't score {self._scored.images}"):
                    if self._reader is not None:
                        self._read(part)
                    self.net.forward()
                if self._reader is None:
                    self._check_order(self.net, part)
                outputs = {
                    level: self._rows(blob, part) for level, blob in self._scored.heads.items()
                }
                feature = self._rows(self._scored.feature, part)
                if self._reader is not None:
                    outputs = {j: averaged(output, self._crops) for j, output in outputs.items()}
                    feature = feature.reshape(len(part), self._crops, -1).mean(axis=1)
                yield Batch(start, outputs, feature)
                bar.update(len(part))

    def _inputs(self):
        return self.net.blobs["data"].data

    def _read(self, labels):
        """Fill the net's input with the crops of the next images."""
        side = self._inputs().shape[2]
        for i, row in enumerate(labels):
            self._reader.forward()
            self._check_order(self._reader, row[None])
            image = self._reader.blobs["data"].data[0]
            if min(image.shape[1:]) < side or image.shape[1:] == (side, side):
                raise UserError(
                    f"an image of {self._scored.images} has {image.shape[2]} x {image.shape[1]} "
                    f"pixels, too few for several crops of {side} x {side}: leave out --crops"
                )
            self._inputs()[i * self._crops : (i + 1) * self._crops] = cut(image, side, self._crops)

    def _check_order(self, net, labels):
        found = net.blobs["label"].data[: len(labels)]
        if not np.array_equal(found.reshape(labels.shape), labels):
            raise UserError(
                f"Caffe does not read {self._scored.labels} in the order of its "
                "keys: build the data set again"
            )

    def _rows(self, blob, labels):
        """A blob's rows for the images of a batch, n * crops x D."""
        count = len(labels) * self._crops
        return self.net.blobs[blob].data[:count].reshape(count, -1)
