"""Base classes of Caffe layers that compute on class scores and use the label tree."""

import math

import caffe

from python_layers import label_tree
from python_layers.blobs import blobs_of_mode
from python_layers.parameters import parse


class ScoreLayer(caffe.Layer):
    """A function of class scores, n x C_l, computed by a module without Caffe.

    A subclass has
      PARAMETERS                    its table of parameters, with "hierarchy", and "levels" if the
                                    scores may be of some levels only
      prepare(given, tree, sizes)   what its maths needs besides the scores: a dictionary of NumPy
                                    arrays, lists of them and numbers. given: values of PARAMETERS;
                                    sizes: numbers of classes of the score bottoms. Raises
                                    ValueError if they do not fit.
      scores_in(bottoms, given)     number of score bottoms among `bottoms`, None if none fits
      accepts_tops(tops, scores)    whether it can have that many tops, for that many score bottoms
      bottoms, tops                 text of what these are, for messages

    Raises ValueError, in one sentence that begins with the layer's name, for wrong parameters, a
    hierarchy that can't be read or does not fit the scores, labels that are not classes, and scores
    with nan or inf. On a GPU, values are not checked (MetricLossLayer).
    """

    def setup(self, bottom, top):
        name = type(self).__name__
        given = parse(self.param_str, self.PARAMETERS, name)
        count = self.scores_in(len(bottom), given)
        if count is None or not self.accepts_tops(len(top), count):
            raise ValueError(
                f"{name} needs {self.bottoms}, and {self.tops}, not {len(bottom)} bottoms and "
                f"{len(top)} tops"
            )
        self.count = count
        if given["hierarchy"] is None:
            raise ValueError(
                f'{name}: param_str needs "hierarchy", the path of the data set\'s hierarchy.tsv'
            )
        self.arrays = blobs_of_mode()
        try:
            tree = label_tree.read(given["hierarchy"])
            if given.get("levels"):
                tree = tree.only(given["levels"])
            sizes = [_classes(bottom[i]) for i in range(count)]
            constants = self.prepare(given, tree, sizes)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self.sizes = sizes
        with self.arrays.queue:
            self.constants = {key: _on_device(self.arrays, v) for key, v in constants.items()}

    def reshape(self, bottom, top):
        name, samples = type(self).__name__, bottom[0].shape[0]
        for i in range(self.count):
            if bottom[i].shape[0] != samples or _classes(bottom[i]) != self.sizes[i]:
                raise ValueError(
                    f"{name}: bottom {i} is {' x '.join(map(str, bottom[i].shape))}; it must be "
                    f"{samples} x {self.sizes[i]}"
                )
        for i in range(self.count, len(bottom)):
            if bottom[i].count != samples:
                raise ValueError(
                    f"{name}: bottom {i} has {bottom[i].count} labels for {samples} samples"
                )
        self.reshape_tops(top, samples)

    def scores(self, bottom):
        """The scores as n x C_l arrays, views of the blobs."""
        return [
            self.arrays.data(bottom[i]).reshape(bottom[i].shape[0], self.sizes[i])
            for i in range(self.count)
        ]


class ScoreLossLayer(ScoreLayer):
    """A loss of class scores and labels.

    Tops: the loss, one value, and optionally the probabilities of the fine classes, n x C; these
    take a second `loss_weight: 0`, since Caffe expects one weight per top, and have no gradient.
    A subclass has forward_pass(scores, labels, **constants) -> scores.ScoreTerms too. Backward
    multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero. A batch
    without samples has loss 0.
    """

    tops = "one or two tops"

    @staticmethod
    def accepts_tops(tops, scores):
        return 1 <= tops <= 2

    def reshape_tops(self, top, samples):
        top[0].reshape(1)
        if len(top) == 2:
            top[1].reshape(samples, self.sizes[0])

    def forward(self, bottom, top):
        self.terms = None
        with self.arrays.queue:
            if bottom[0].shape[0] == 0:
                self.arrays.data(top[0])[...] = 0
                return
            labels = [self.arrays.data(bottom[i]) for i in range(self.count, len(bottom))]
            try:
                self.terms = self.forward_pass(self.scores(bottom), labels, **self.constants)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}: {error}") from None
            self.arrays.data(top[0])[...] = self.terms.loss
            if len(top) == 2:
                self.arrays.data(top[1])[...] = self.terms.probabilities

    def backward(self, top, propagate_down, bottom):
        with self.arrays.queue:
            for i in range(self.count, len(bottom)):
                if propagate_down[i]:  # only under force_backward
                    self.arrays.diff(bottom[i])[...] = 0
            if self.terms is None:
                return
            weight = self.arrays.diff(top[0])[0]
            for i, gradient in enumerate(self.terms.gradients):
                if propagate_down[i]:
                    diff = self.arrays.diff(bottom[i])
                    diff[...] = (weight * gradient).reshape(diff.shape)


class FineScoreLossLayer(ScoreLossLayer):
    """A ScoreLossLayer with two bottoms: the scores of the fine classes and their labels."""

    bottoms = "the fine scores and their labels"

    @staticmethod
    def scores_in(bottoms, given):
        return 1 if bottoms == 2 else None


class MarginalsLayer(ScoreLayer):
    """Logarithms of the probabilities of a model's classes from its scores; not a loss.

    A softmax of a top gives the probabilities, as of any classifier's scores. The tops, one for
    each of the first score bottoms, have their shapes and may be the same blobs: for tests and
    deploy nets. A subclass has log_marginals(scores, **constants) -> n x C_l arrays too.
    """

    tops = "up to as many tops as scores"

    @staticmethod
    def accepts_tops(tops, scores):
        return 1 <= tops <= scores

    def reshape_tops(self, top, samples):
        for i in range(len(top)):
            top[i].reshape(samples, self.sizes[i])

    def forward(self, bottom, top):
        with self.arrays.queue:
            if bottom[0].shape[0]:
                found = self.log_marginals(self.scores(bottom), **self.constants)
                for i in range(len(top)):
                    self.arrays.data(top[i])[...] = found[i]

    def backward(self, top, propagate_down, bottom):
        if any(propagate_down):
            raise ValueError(f"{type(self).__name__} has no gradient; use it in tests only")


def _classes(blob):
    return math.prod(list(blob.shape)[1:])


def _on_device(arrays, value):
    if isinstance(value, list):
        return [arrays.constant(array) for array in value]
    return arrays.constant(value) if hasattr(value, "dtype") else value
