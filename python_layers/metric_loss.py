"""Base class of the metric losses as Caffe layers."""

import math

import caffe
import numpy as np

from python_layers import communicator
from python_layers.blobs import blobs_of_mode
from python_layers.memory import LARGEST_CAPACITY, SampleMemory
from python_layers.pairwise import check_loss
from python_layers.parameters import parse, scale, whole_number

# Parameters of every metric loss that compares samples with each other; all have "normalize" too.
COMMON = {"scale": scale(), "memory": whole_number(0, least=0, most=LARGEST_CAPACITY)}


def parse_parameters(param_str, table, layer):
    """As parameters.parse; refuses a "scale" without "normalize", which would have no effect."""
    given = parse(param_str, table, layer)
    if given.get("scale", 1) != 1 and not given["normalize"]:
        raise ValueError(
            f'{layer}: "scale" is the length of normalized features and goes with "normalize": true'
        )
    return given


class MetricLossLayer(caffe.Layer):
    """A loss of the features and labels of a batch, computed by a module without Caffe.

    Bottoms
      0     features, n x ... (flattened to n x d).
      1..   labels, n values each (any shape), from the fine level up.
    Tops
      0     the loss, one value.
      1     optional: diagnostics, in the order of diagnostic_names. It takes a second
            `loss_weight: 0`, since Caffe expects one weight per top. The last entry is the norm of
            the gradient that the layer sends into the features of the batch, with loss_weight.

    Parameters (param_str, JSON) of every loss that compares samples with each other
      normalize        -         scale the features to length `scale` inside the loss.
      scale            1         that length, s, from 0.001 to 1000. Squared distances are then in
                                 [0, 4 s^2]. Margins do not change with s: they are in these units,
                                 so that a margin m is m / (4 s^2) of the largest squared distance
                                 (of contrastive, whose margin is a distance, m / (2 s)). A larger s
                                 makes the gradient larger, and the margin easier to satisfy.
      memory           0         number of past samples that are compared with those of the batch.

    A subclass has
      PARAMETERS                    its table of parameters, with COMMON if it compares samples
      arguments_of(given, levels)   keyword arguments of forward_pass from the values of PARAMETERS
                                    but `memory`, for that many label bottoms; default: the values
      forward_pass(features, labels, **arguments) -> pairwise.LossTerms; with a memory also with
                                    `anchors` and `gram` (memory.py)
      diagnostic_names(levels)      names of the diagnostics' entries, in order
      MAX_LEVELS                    largest number of label bottoms; None: no limit

    Memory. With "memory": N, the N newest samples of earlier batches follow those of the batch,
    with the features that they had then. They are constants: the gradient is that of the batch,
    each of whose samples is compared with more others (memory.py). Samples enter before
    the next forward pass of the TRAIN phase if a backward pass was made (with iter_size, each of
    its batches), so that a second backward pass finds the same; in the TEST phase the batch is
    alone. Keep N + batch size below the number of training images,
    or a sample meets its own past. A snapshot does not hold the memory: after -snapshot it starts
    empty, and a line in the log says so. Where Caffe makes no backward pass (loss_weight 0) it
    stays empty.

    Backward multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero.
    Caffe does not treat a Python layer as a loss unless it has a loss_weight: without one it has no
    effect. A batch without samples, as Caffe's Filter layer may produce, has loss 0.
    If several processes train the net, the loss is that of the samples of all of them, and the
    gradient the one that their average needs (communicator.py); their batches must have equal size.
    Raises ValueError, in one sentence that begins with the layer's name, for wrong parameters,
    labels that are not whole numbers, not one per sample or not a tree, features with nan or inf or
    longer than pairwise.LONGEST, and a loss or gradient beyond float32. A refused batch changes no
    state.

    If Caffe is in GPU mode when the net is made, and CuPy is installed, everything is computed in
    the blobs' device memory, nothing is copied to the host, and Python does not wait for the GPU.
    The values of labels and features are then not checked:
    features with nan or inf make the loss nan or inf, wrong labels make wrong classes. An iteration
    in CPU mode reports what is wrong with them.
    """

    MAX_LEVELS = None

    def arguments_of(self, given, levels):
        return given

    def setup(self, bottom, top):
        name, levels = type(self).__name__, len(bottom) - 1
        if levels < 1:
            raise ValueError(f"{name} needs the features and at least one label bottom")
        if self.MAX_LEVELS is not None and levels > self.MAX_LEVELS:
            raise ValueError(f"{name} takes {self.MAX_LEVELS} label bottom, not {levels}")
        if not 1 <= len(top) <= 2:
            raise ValueError(
                f"{name} has one top, the loss, or two, the loss and the diagnostics, "
                f"not {len(top)}"
            )
        given = parse_parameters(self.param_str, self.PARAMETERS, name)
        capacity = given.pop("memory", 0)
        self.memory = SampleMemory(capacity) if capacity and self.phase == caffe.TRAIN else None
        self._to_keep = False
        self.arguments = self.arguments_of(given, levels)
        self.arrays = blobs_of_mode()

    def set_forward_pass(self, number):
        """Called by Caffe when it has restored a snapshot; pass `number`, from 0, is next."""
        if self.memory is None:
            return
        self.memory, self._to_keep = SampleMemory(self.memory.capacity), False
        if number:
            caffe.log(
                f"{type(self).__name__}: a snapshot does not hold the memory of "
                f"{self.memory.capacity} samples, which starts empty: training from here on "
                "differs from an uninterrupted run"
            )

    def reshape(self, bottom, top):
        samples = bottom[0].shape[0]
        for level, labels in enumerate(_labels(bottom), 1):
            if labels.count != samples:
                raise ValueError(
                    f"{type(self).__name__}: bottom {level} has {labels.count} labels for "
                    f"{samples} samples; every level needs one label per sample"
                )
        top[0].reshape(1)
        if len(top) == 2:
            top[1].reshape(len(self.diagnostic_names(len(bottom) - 1)))

    def forward(self, bottom, top):
        self.terms = self._features = None
        with self.arrays.queue:
            if self._to_keep:
                self._to_keep = False
                self.memory.keep()
            tops = [self.arrays.data(top[i]) for i in range(len(top))]
            self._ranks = communicator.current()
            if bottom[0].shape[0] == 0:
                if self._ranks.size > 1:
                    raise ValueError(
                        f"{type(self).__name__}: a batch without samples can't be "
                        "joined with those of the other processes"
                    )
                for values in tops:
                    values[...] = 0
                return
            self.terms = self._terms(bottom)
            tops[0][...] = self.terms.loss
            if len(tops) == 2:
                weight = self.arrays.diff(top[0])[0]
                with np.errstate(over="ignore"):  # a gradient beyond float32 is refused in backward
                    tops[1][...] = self.terms.diagnostics(weight)

    def _terms(self, bottom):
        batch = _rows(self.arrays.data(bottom[0]))
        gather = self._ranks.gather
        features = gather(batch)
        labels = [gather(self.arrays.data(level).ravel()) for level in _labels(bottom)]
        arguments, anchors = self.arguments, len(features)
        if self.memory is not None:
            features, labels, gram = self.memory.join(features, labels)
            arguments = {**arguments, "anchors": anchors, "gram": gram}
        # Views of blobs are not kept, because Caffe may move the blob's memory.
        self._features = None if features is batch else features
        try:
            terms = self.forward_pass(features, labels, **arguments)
            check_loss(terms.loss)
            return terms
        except ValueError as error:
            past = len(features) - anchors
            also = f" (among the samples are {past} of the memory)" if past else ""
            raise ValueError(f"{type(self).__name__}: {error}{also}") from None

    def backward(self, top, propagate_down, bottom):
        with self.arrays.queue:
            for asked, labels in zip(propagate_down[1:], _labels(bottom)):
                if asked:  # only under force_backward
                    self.arrays.diff(labels)[...] = 0
            if propagate_down[0] and self.terms is not None:
                self._write_gradient(top, bottom)
            self._to_keep = self.memory is not None and self.terms is not None

    def _write_gradient(self, top, bottom):
        batch = _rows(self.arrays.data(bottom[0]))
        try:
            self.terms.gradient(
                batch if self._features is None else self._features,
                self.arrays.diff(top[0])[0] * self._ranks.size,
                own=self._ranks.own(len(batch)),
                out=_rows(self.arrays.diff(bottom[0])),
            )
        except ValueError as error:
            self._to_keep = False
            raise ValueError(f"{type(self).__name__}: {error}") from None


def _rows(features):
    return features.reshape(len(features), math.prod(features.shape[1:]))


def _labels(bottom):
    # Caffe's blob vector has neither slices nor an iterator that Python can use.
    return [bottom[level] for level in range(1, len(bottom))]
