"""The triplet loss of one batch, mined inside it, and its gradient: NumPy or CuPy, no Caffe.

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

from python_layers.backend import array_module, candidates, sum_at, vector
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
    (label,) = check_labels(labels, len(features))
    batch = Pairwise(features, normalize)
    positive, negative = pair_kinds(label)

    weights, active, mined = MINING[mining](batch.distances, positive, negative, margin)
    xp = array_module(features)
    counted = xp.maximum(active if average == "active" else mined, 1)
    # An active triplet has its D_ap + m with weight 1 and its D_an with weight -1.
    loss = xp.maximum((weights * (batch.distances + margin * positive)).sum() / counted, 0.0)

    def diagnostics():
        means = [
            (batch.distances * kind).sum() / xp.maximum(kind.sum(), 1)
            for kind in (positive, negative)
        ]
        return vector([loss, active / xp.maximum(mined, 1), mined] + means, features)

    return LossTerms(loss, batch.coefficients((weights + weights.T) / counted), diagnostics)


def _all(distances, positive, negative, margin):
    """(weights, active, mined): weights[a, j] is how often D_aj occurs in the sum of the active
    triplets' hinges, negative for a negative j."""
    order = _order(distances + margin * positive, positive)
    nearer_positives, nearer_negatives = _before(order, positive), _before(order, negative)
    positives = positive.sum(axis=1, keepdims=True)
    weights = positive * nearer_negatives - negative * (positives - nearer_positives)
    mined = (positives * negative.sum(axis=1, keepdims=True)).sum()
    return weights, (positive * nearer_negatives).sum(), mined


def _semihard(distances, positive, negative, margin):
    xp = array_module(distances)
    negatives = negative.sum(axis=1)
    order = _order(distances, negative)
    nearer = _before(order, negative)
    rows = xp.arange(len(distances))[:, None]
    # The negatives alone, by distance; behind them, the others.
    by_distance = order[rows, xp.argsort(~negative[rows, order], axis=1, kind="stable")]
    allowed = positive & (negatives > 0)[:, None]
    a, p = candidates(allowed)
    n = by_distance[a, xp.maximum(xp.minimum(nearer[a, p], negatives[a] - 1), 0)]
    return _chosen(distances, margin, a, p, n, allowed[a, p])


def _hard(distances, positive, negative, margin):
    xp = array_module(distances)
    allowed = positive.any(axis=1) & negative.any(axis=1)
    (a,) = candidates(allowed)
    p = xp.where(positive, distances, -np.inf)[a].argmax(axis=1)
    n = xp.where(negative, distances, np.inf)[a].argmin(axis=1)
    return _chosen(distances, margin, a, p, n, allowed[a])


MINING = {"all": _all, "semihard": _semihard, "hard": _hard}


def _order(key, first):
    """Each row's entries by `key`; between equal keys, those of `first` come first."""
    xp = array_module(key)
    order = xp.argsort(~first, axis=1, kind="stable")
    rows = xp.arange(len(key))[:, None]
    return order[rows, xp.argsort(key[rows, order], axis=1, kind="stable")]


def _before(order, kind):
    """For every entry of a row, how many of `kind` come before it in `order`, itself included."""
    xp = array_module(order)
    rows = xp.arange(len(order))[:, None]
    counts = xp.empty(order.shape, np.int64)
    counts[rows, order] = xp.cumsum(kind[rows, order], axis=1, dtype=np.int64)
    return counts


def _chosen(distances, margin, a, p, n, allowed):
    """As _all, for the triplets listed and allowed."""
    active = allowed & (distances[a, p] - distances[a, n] + margin > 0)
    size = len(distances)
    times = active.astype(np.float64)
    flat = [sum_at(a * size + other, size**2, times) for other in (p, n)]
    return (flat[0] - flat[1]).reshape(size, size), active.sum(), allowed.sum()
