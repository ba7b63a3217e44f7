"""The center loss of one batch, its gradient and its centres' step: NumPy or CuPy, no Caffe.

Y. Wen, K. Zhang, Z. Li, Y. Qiao, "A discriminative feature learning approach for deep face
recognition", ECCV 2016. With features x_i, their classes y_i, a centre c_j per class and a batch of
m samples,

    L        = 1/(2m) sum_i |x_i - c_{y_i}|^2                            the paper's Eq. (2), over m
    dL/dx_i  = (x_i - c_{y_i}) / m                                       Eq. (3), over m
    Delta_j  = sum_i [y_i = j] (c_j - x_i) / (1 + sum_i [y_i = j])       Eq. (4)
    c_j     <- c_j - alpha Delta_j

Eq. (2) sums over the batch; the mean is what the authors' own Caffe layer takes, so that the weight
of the loss doesn't depend on the batch size. The gradient is exact for fixed centres; Delta_j is no
gradient of L, and alpha no learning rate: it depends neither on m nor on the weight of the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from python_layers.backend import array_module, on_host, vector
from python_layers.labels import Classes, check_labels, number_classes
from python_layers.pairwise import check_finite


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `classes` is the number of classes in the batch, `center_length` the mean |c_j| over them, which
    tells how far the centres have come from their start at zero.
    """
    return ["loss", "classes", "center_length"]


@dataclass(frozen=True)
class CenterTerms:
    """What a forward pass leaves for the backward pass, for the centres and for the diagnostics.

    loss:    a float >= 0; on a GPU an array without axes.
    offsets: n x d, x_i - c_{y_i}, of the features' dtype.
    labels:  n classes, y_i;  classes: their labels.Classes.
    measure: computes the diagnostics, for whoever wants them.
    """

    loss: Any
    offsets: Any
    labels: Any
    classes: Classes
    measure: Callable[[], Any]

    @cached_property
    def diagnostics(self):
        """float64 vector; `diagnostic_names` names them."""
        return self.measure()

    def gradient(self, features, weight=1.0, own=slice(None), out=None):
        """weight * dL/dX: own x d, of the features' dtype; as pairwise.LossTerms.gradient."""
        share = weight / len(self.offsets)
        return array_module(features).multiply(self.offsets[own], share, out=out)

    def move(self, centers, alpha):
        """c_j -= alpha Delta_j in place, for the classes in the batch; the others stay."""
        # A number without a class of its own moves the centre of its `first` sample's class: to
        # where that class's own number moves it.
        first, of = self.classes.first, self.classes.of
        member = (of == of[first][:, None]).astype(self.offsets.dtype)
        towards = alpha * (member / (1 + member.sum(axis=1, keepdims=True)))
        moved = self.labels[first]
        centers[moved] = centers[moved] + towards @ self.offsets


def forward(features, labels, centers):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers from 0 to C - 1, in a list, as all losses take them.
    centers:  C x d.
    Returns CenterTerms. Raises ValueError for features or labels that can't be used.
    """
    (labels,) = check_labels(labels, len(features))
    xp = array_module(features)
    if on_host(labels) and labels.max() >= len(centers):
        raise ValueError(
            f"label_1 holds class {labels.max()} and there are only {len(centers)} "
            "centres, numbered from 0; num_classes must be the number of classes"
        )
    offsets = centers[labels].astype(features.dtype, copy=False)
    xp.subtract(features, offsets, out=offsets)
    square = xp.einsum("ij,ij->i", offsets, offsets, dtype=np.float64)
    check_finite(square)
    loss = square.sum() / (2 * len(features))
    classes = number_classes(labels)

    def diagnostics():
        own = centers[labels[classes.first]]
        length = xp.sqrt(xp.einsum("ij,ij->i", own, own, dtype=np.float64)) * classes.present
        present = classes.present.sum()
        return vector([loss, present, length.sum() / present], features)

    return CenterTerms(loss, offsets, labels, classes, diagnostics)
