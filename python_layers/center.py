"""The center loss of one batch, its gradient and its centers' step: NumPy or CuPy, no Caffe.

Y. Wen, K. Zhang, Z. Li, Y. Qiao, "A discriminative feature learning approach for deep face
recognition", ECCV 2016. With features x_i, their classes y_i, a center c_j per class and a batch of
m samples,

    L        = 1/(2m) sum_i |x_i - c_{y_i}|^2                            the paper's Eq. (2), over m
    dL/dx_i  = (x_i - c_{y_i}) / m                                       Eq. (3), over m
    Delta_j  = sum_i [y_i = j] (c_j - x_i) / (1 + sum_i [y_i = j])       Eq. (4)
    c_j     <- c_j - alpha Delta_j

Eq. (2) sums over the batch; the mean, as in the authors' Caffe layer, makes the weight of the loss
independent of the batch size. The gradient is exact for fixed centers. Delta_j is not a gradient of
L, and alpha is not a learning rate: it depends neither on m nor on the weight of the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from python_layers.backend import array_module, on_host, vector
from python_layers.labels import Classes, check_labels, number_classes
from python_layers.pairwise import GRADIENT_NORM, LONGEST, check_features, check_gradient


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `classes` is the number of classes in the batch, `center_length` the mean |c_j| over them: how
    far the centers have moved from their start at zero.
    """
    return ["loss", "classes", "center_length", GRADIENT_NORM]


@dataclass(frozen=True)
class CenterTerms:
    """The results of a forward pass: for the backward pass, the centers and the diagnostics.

    loss:    a float >= 0; on a GPU an array without axes.
    offsets: n x d, x_i - c_{y_i}, of the features' dtype.
    labels:  n classes, y_i;  classes: their labels.Classes.
    measure: function that returns the entries of the diagnostics but the last, a list.
    """

    loss: Any
    offsets: Any
    labels: Any
    classes: Classes
    measure: Callable[[], Any]

    @cached_property
    def gradient_norm(self):
        """|dL/dX| = sqrt(2 L / m)."""
        return array_module(self.offsets).sqrt(2 * self.loss / len(self.offsets))

    def diagnostics(self, weight=1.0):
        """float64 vector, named by `diagnostic_names`; weight: as of pairwise.LossTerms."""
        return vector([*self.measure(), abs(weight) * self.gradient_norm], self.offsets)

    def gradient(self, features, weight=1.0, own=slice(None), out=None):
        """weight * dL/dX: own x d, of the features' dtype; as pairwise.LossTerms.gradient."""
        share = weight / len(self.offsets)
        with np.errstate(over="ignore", invalid="ignore"):  # check_gradient reports these
            gradient = array_module(features).multiply(self.offsets[own], share, out=out)
        # With a share up to 1 the gradient is not longer than the offsets, which are checked.
        if on_host(gradient) and not abs(share) <= 1:
            check_gradient(gradient)
        return gradient

    def move(self, centers, alpha):
        """c_j -= alpha Delta_j in place, for the classes in the batch; the others stay."""
        # The number of an absent class moves the center of the class of its `first` sample, to the
        # same place as the number of that class.
        first, of = self.classes.first, self.classes.of
        member = (of == of[first][:, None]).astype(self.offsets.dtype)
        toward = alpha * (member / (1 + member.sum(axis=1, keepdims=True)))
        moved = self.labels[first]
        centers[moved] = centers[moved] + toward @ self.offsets


def forward(features, labels, centers):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers from 0 to C - 1, in a list, as all losses take them.
    centers:  C x d.
    Returns CenterTerms. Raises ValueError for features or labels that can't be used.
    """
    (labels,) = check_labels(labels, len(features), len(centers))
    xp = array_module(features)
    offsets = centers[labels].astype(features.dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):  # _check_offsets reports these
        xp.subtract(features, offsets, out=offsets)
    square = xp.einsum("ij,ij->i", offsets, offsets, dtype=np.float64)
    _check_offsets(square, features, labels, centers)
    loss = square.sum() / (2 * len(features))
    classes = number_classes(labels)

    def diagnostics():
        own = centers[labels[classes.first]]
        length = xp.sqrt(xp.einsum("ij,ij->i", own, own, dtype=np.float64)) * classes.present
        present = classes.present.sum()
        return [loss, present, length.sum() / present]

    return CenterTerms(loss, offsets, labels, classes, diagnostics)


def _check_offsets(squares, features, labels, centers):
    """Raises ValueError if a sample's offset from its center can't be computed with.

    squares: n squared lengths of the offsets. Those on a GPU are not checked. The lengths of the
    features and of the centers are computed only after a fault, to tell which of them it is in.
    """
    if not on_host(squares) or (squares <= LONGEST**2).all():
        return
    check_features(_squares(features))
    lengths = np.sqrt(_squares(centers[labels]))
    bad = np.flatnonzero(~(lengths <= LONGEST))
    sample = bad[0] if len(bad) else squares.argmax()
    raise ValueError(
        f"the center of class {labels[sample]} has length {lengths[sample]:g}, too far from its "
        "samples for float32; resume from an earlier snapshot, or without the layer's centers"
    )


def _squares(vectors):
    return np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
