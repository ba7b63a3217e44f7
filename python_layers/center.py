"""The center loss of one batch, its gradient and its centres' step: NumPy, no Caffe.

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

from dataclasses import dataclass

import numpy as np

from python_layers.labels import check_labels
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

    loss:        a float >= 0.
    offsets:     n x d, x_i - c_{y_i}, of the features' dtype.
    labels:      n classes, y_i.
    diagnostics: float64 vector; `diagnostic_names` names them.
    """

    loss: float
    offsets: np.ndarray
    labels: np.ndarray
    diagnostics: np.ndarray

    def gradient(self, features, weight=1.0, own=None, out=None):
        """weight * dL/dX: own x d, of the features' dtype; as pairwise.LossTerms.gradient."""
        share = features.dtype.type(weight / len(self.offsets))
        return np.multiply(self.offsets[:own], share, out=out)

    def move(self, centers, alpha):
        """c_j -= alpha Delta_j in place, for the classes in the batch; the others stay."""
        present, class_of = np.unique(self.labels, return_inverse=True)
        member = (class_of == np.arange(len(present))[:, None]).astype(self.offsets.dtype)
        towards = alpha * (member / (1 + member.sum(axis=1, keepdims=True)))
        centers[present] += towards @ self.offsets


def forward(features, labels, centers):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers from 0 to C - 1, in a list, as all losses take them.
    centers:  C x d.
    Returns CenterTerms. Raises ValueError for features or labels that can't be used.
    """
    labels, = check_labels(labels, len(features))
    if labels.max() >= len(centers):
        raise ValueError(f"label_1 holds class {labels.max()} and there are only {len(centers)} "
                         "centres, numbered from 0; num_classes must be the number of classes")
    offsets = features - centers[labels]
    square = np.einsum("ij,ij->i", offsets, offsets, dtype=np.float64)
    check_finite(square)
    loss = float(square.sum()) / (2 * len(features))
    present = np.unique(labels)
    length = np.sqrt(np.einsum("ij,ij->i", centers[present], centers[present], dtype=np.float64))
    return CenterTerms(loss, offsets, labels, np.array([loss, len(present), length.mean()]))
