"""What the metric losses have in common as Caffe layers."""

import math

import caffe

from python_layers import communicator
from python_layers.blobs import blobs_of_mode
from python_layers.parameters import parse


class MetricLossLayer(caffe.Layer):
    """A loss of one batch's features and of their labels, whose maths is a module without Caffe.

    Bottoms: features n x ... (flattened to n x d), then the labels, n values each, of any shape.
    Tops: the loss, one value; and, if the loss has diagnostics, optionally these. A second top needs
    a second `loss_weight: 0`, since Caffe wants one weight per top.

    A subclass has
      PARAMETERS                    its table of parameters, which are the settings; or else
      settings(param_str, levels)   keyword arguments of forward_pass, for so many label bottoms
      forward_pass(features, labels, **settings) -> pairwise.LossTerms
      diagnostic_names(levels)      names of the diagnostics' entries, in order
      MAX_LEVELS                    label bottoms that it takes, at most; None: any number
      extended(features, labels)    the samples that the loss is taken over, if not the batch alone

    Backward multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero.
    Without a `loss_weight` line Caffe takes no Python layer for a loss, and nothing is learnt here.
    A batch without samples, as Caffe's Filter layer may leave one, has loss 0.
    Where several processes train the net, the loss is that of the samples of all of them, and the
    gradient what their average needs (communicator.py); their batches must be of one size.
    Raises ValueError, in one sentence that begins with the layer's name.

    Where Caffe is in GPU mode when the net is made, and CuPy is there, all is done in the blobs'
    device memory, nothing is copied to the host, and Python doesn't wait for the GPU. What a label
    or a feature holds is then not checked, as in Caffe's own SoftmaxWithLoss: features with nan or
    inf make the loss nan or inf, wrong labels make wrong classes. An iteration in CPU mode tells
    what is wrong with them.
    """

    MAX_LEVELS = None

    def settings(self, param_str, levels):
        return parse(param_str, self.PARAMETERS, type(self).__name__)

    def extended(self, features, labels):
        """(features, labels) of all samples that the loss is taken over: those given, in their
        order, and behind them any others, such as a memory's.

        features: n x d float32, a view of the blob, or the batches of all processes; labels: a list
        of n float32 per level. Both are NumPy's or CuPy's (backend.array_module), and so have
        others' to be, of the same dtype. They are constants: the gradient is that of the batch's
        own features. Called once per forward pass, not for empty batches; what it returns is kept
        for the backward pass, unless it is a view of the blob.
        """
        return features, labels

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
        self.arguments = self.settings(self.param_str, levels)
        self.arrays = blobs_of_mode()

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
                tops[1][...] = self.terms.diagnostics

    def _terms(self, bottom):
        batch = _rows(self.arrays.data(bottom[0]))
        gather = self._ranks.gather
        features, labels = self.extended(
            gather(batch), [gather(self.arrays.data(level).ravel()) for level in _labels(bottom)]
        )
        # A view of a blob isn't kept: Caffe may move the blob's memory.
        self._features = None if features is batch else features
        try:
            return self.forward_pass(features, labels, **self.arguments)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None

    def backward(self, top, propagate_down, bottom):
        with self.arrays.queue:
            for asked, labels in zip(propagate_down[1:], _labels(bottom)):
                if asked:  # only under force_backward
                    self.arrays.diff(labels)[...] = 0
            if propagate_down[0] and self.terms is not None:
                batch = _rows(self.arrays.data(bottom[0]))
                features = batch if self._features is None else self._features
                weight = self.arrays.diff(top[0])[0] * self._ranks.size
                self.terms.gradient(
                    features,
                    weight,
                    own=self._ranks.own(len(batch)),
                    out=_rows(self.arrays.diff(bottom[0])),
                )


def _rows(features):
    return features.reshape(len(features), math.prod(features.shape[1:]))


def _labels(bottom):
    # Caffe's blob vector has neither slices nor an iterator that Python can use.
    return [bottom[level] for level in range(1, len(bottom))]
