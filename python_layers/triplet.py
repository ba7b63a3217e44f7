"""The triplet loss of one batch, with mining inside the batch, and its gradient: NumPy, no Caffe.

A triplet is an anchor a, a positive p of a's class and a negative n of another class. With
D_ij = |x_i - x_j|^2 (squared, as in FaceNet) and a margin m,

    L = 1 / N sum over the mined triplets of [D_ap - D_an + m]_+

F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: a unified embedding for face recognition and
clustering", CVPR 2015, Eqs. (1)-(3), Section 3.2. Mined are

    all       every (a, p, n) of the batch
    semihard  for every (a, p) the nearest n that is farther than p, Eq. (4); where all negatives
              are nearer, the farthest one (FaceNet doesn't say; this is TensorFlow's
              triplet_semihard_loss)
    hard      for every a the farthest p and the nearest n (A. Hermans, L. Beyer, B. Leibe, "In
              defense of the triplet loss for person re-identification", 2017, Eq. (5))

No list of triplets is ever made: whether [D_ap - D_an + m]_+ > 0 is the order of two numbers of a's
row, so that sorting the rows answers it for all. Memory is some ten n x n arrays, time n^2 log n.
"""

import numpy as np

from python_layers.labels import check_labels, pair_kinds
from python_layers.pairwise import LossTerms, Pairwise


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `triplets` is the number mined and `active` the share of them whose hinge is above 0; `positive`
    and `negative` are the mean squared distances of pairs of one and of different classes. 0 where
    there is none.
    """
    return ["loss", "active", "triplets", "positive", "negative"]


def forward(features, labels, margin=0.2, mining="semihard", normalize=True, average="active"):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers, in a list.
    margin:   m, at least 0; in squared feature distance.
    mining:   "all", "semihard" or "hard".
    normalize: L2-normalise the features first; distances are then in [0, 4]. The gradient is still
              with respect to the features given.
    average:  what N counts: the "active" triplets, whose hinge is above 0, or all "mined" ones.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    label, = check_labels(labels, len(features))
    batch = Pairwise(features, normalize)
    positive, negative = pair_kinds(label)

    weights, active, mined = MINING[mining](batch.distances, positive, negative, margin)
    counted = max(active if average == "active" else mined, 1)
    # An active triplet has its D_ap + m with weight 1 and its D_an with weight -1.
    loss = max((weights * (batch.distances + margin * positive)).sum() / counted, 0.0)
    means = [(batch.distances * kind).sum() / max(kind.sum(), 1) for kind in (positive, negative)]
    return LossTerms(float(loss), batch.coefficients((weights + weights.T) / counted),
                     np.array([loss, active / max(mined, 1), mined] + means))


def _all(distances, positive, negative, margin):
    """(weights, active, mined): weights[a, j] is how often D_aj occurs in the sum of the active
    triplets' hinges, negative for a negative j."""
    key = distances + margin * positive
    nearer_positives, nearer_negatives = _nearer(key, positive, negative)
    positives = positive.sum(axis=1, keepdims=True)
    weights = positive * nearer_negatives - negative * (positives - nearer_positives)
    mined = (positives * negative.sum(axis=1, keepdims=True)).sum()
    return weights, (positive * nearer_negatives).sum(), mined


def _semihard(distances, positive, negative, margin):
    negatives = negative.sum(axis=1)
    by_distance = np.argsort(np.where(negative, distances, np.inf), axis=1, kind="stable")
    nearer = _nearer(distances, negative, negative)[1]
    a, p = np.nonzero(positive & (negatives > 0)[:, None])
    n = by_distance[a, np.minimum(nearer[a, p], negatives[a] - 1)]
    return _chosen(distances, margin, a, p, n)


def _hard(distances, positive, negative, margin):
    a, = np.nonzero(positive.any(axis=1) & negative.any(axis=1))
    p = np.where(positive, distances, -np.inf)[a].argmax(axis=1)
    n = np.where(negative, distances, np.inf)[a].argmin(axis=1)
    return _chosen(distances, margin, a, p, n)


MINING = {"all": _all, "semihard": _semihard, "hard": _hard}


def _nearer(key, first, negative):
    """For every entry of a row, how many of `first` and of `negative` come before it.

    The order is that of `key`; between equal keys, `first` come first.
    """
    order = np.argsort(~first, axis=1, kind="stable")
    rows = np.arange(len(key))[:, None]
    order = order[rows, np.argsort(key[rows, order], axis=1, kind="stable")]
    counts = np.empty((2, *key.shape), np.int64)
    for count, kind in zip(counts, (first, negative)):
        count[rows, order] = np.cumsum(kind[rows, order], axis=1)
    return counts


def _chosen(distances, margin, a, p, n):
    """As _all, for the triplets listed."""
    active = distances[a, p] - distances[a, n] + margin > 0
    size = len(distances)
    flat = [np.bincount((a * size + other)[active], minlength=size**2) for other in (p, n)]
    return (flat[0] - flat[1]).reshape(size, size), np.count_nonzero(active), len(a)
