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

"all" makes no list of triplets: whether [D_ap - D_an + m]_+ > 0 depends on the order of two numbers
in a's row, so that sorting the rows answers it for all. Memory is about ten n x n arrays, time
n^2 log n.
"""

import numpy as np

from python_layers.backend import active_indices, array_module, sum_at
from python_layers.labels import check_labels, pair_kinds
from python_layers.pairwise import GRADIENT_NORM, Pairwise, per_unordered_pair


def diagnostic_names(levels):
    """Names of the entries of the diagnostics.

    `triplets` is the number mined and `active` the share of them whose hinge is above 0; `positive`
    and `negative` are the mean squared distances of pairs of one and of different classes; 0
    without any.
    """
    return ["loss", "active", "triplets", "positive", "negative", GRADIENT_NORM]


def forward(
    features,
    labels,
    margin=0.2,
    mining="semihard",
    normalize=True,
    scale=1.0,
    average="active",
    anchors=None,
    gram=None,
):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   one vector of n whole numbers, in a list.
    margin:   m, at least 0; in squared feature distance.
    mining:   "all", "semihard" or "hard".
    normalize: scale the features to length `scale` first; distances are then in [0, 4 scale^2]. The
              gradient is still with respect to the features given.
    scale:    above 0; only with normalize.
    average:  what N counts: the "active" triplets, whose hinge is above 0, or all "mined" ones.
    anchors:  r, number of samples, from the first, that are the current batch (memory.py): a is
              among them, p and n are any samples, and the gradient is theirs. None: all samples.
    gram:     n x n float64, X X^T, if it is known.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    (label,) = check_labels(labels, len(features))
    batch = Pairwise(features, normalize, scale, anchors, gram)
    xp, distances = array_module(features), batch.distances  # r x n
    positive, negative = pair_kinds(label, anchors)  # r x n

    weights, active, mined = MINING[mining](distances, positive, negative, margin)
    counted = xp.maximum(active if average == "active" else mined, 1)  # N
    # An active triplet has its D_ap + m with weight 1 and its D_an with weight -1.
    loss = xp.maximum((weights * (distances + margin * positive)).sum() / counted, 0.0)

    def diagnostics():
        kinds = (positive, negative)
        means = [(distances * kind).sum() / xp.maximum(kind.sum(), 1) for kind in kinds]
        return [loss, active / xp.maximum(mined, 1), mined, *means]

    return batch.terms(loss, per_unordered_pair(weights) / counted, diagnostics)


def _all(distances, positive, negative, margin):
    """Every triplet: (weights, active, mined), the form in which each mining returns its triplets.

    weights: r x n, how often D_aj occurs in the sum of the active triplets' hinges, negative for a
             negative j;  active, mined: numbers of triplets.
    """
    order = _order(distances + margin * positive, positive)  # r x n
    nearer_positives, nearer_negatives = _before(order, positive), _before(order, negative)  # r x n
    positives = positive.sum(axis=1, keepdims=True)  # r x 1
    weights = positive * nearer_negatives - negative * (positives - nearer_positives)  # r x n
    mined = (positives * negative.sum(axis=1, keepdims=True)).sum()
    return weights, (positive * nearer_negatives).sum(), mined


def _semihard(distances, positive, negative, margin):
    """For each (a, p) the nearest negative farther than p, or the farthest negative."""
    xp = array_module(distances)
    negatives = negative.sum(axis=1)  # r
    order = _order(distances, negative)  # r x n
    nearer = _before(order, negative)  # r x n, negatives as near as j or nearer
    rows = xp.arange(len(distances))[:, None]  # r x 1
    # Each row's negatives by distance, followed by its other samples.
    by_distance = order[rows, xp.argsort(~negative[rows, order], axis=1, kind="stable")]  # r x n
    allowed = positive & (negatives > 0)[:, None]  # r x n
    a, p = active_indices(allowed)
    n = by_distance[a, xp.maximum(xp.minimum(nearer[a, p], negatives[a] - 1), 0)]
    return _of_list(distances, margin, a, p, n, allowed[a, p])


def _hard(distances, positive, negative, margin):
    """For each a the farthest positive and the nearest negative."""
    xp = array_module(distances)
    allowed = positive.any(axis=1) & negative.any(axis=1)  # r
    (a,) = active_indices(allowed)
    p = xp.where(positive, distances, -np.inf)[a].argmax(axis=1)
    n = xp.where(negative, distances, np.inf)[a].argmin(axis=1)
    return _of_list(distances, margin, a, p, n, allowed[a])


MINING = {"all": _all, "semihard": _semihard, "hard": _hard}


def _order(key, first):
    """Each row's entries by `key`, r x n; between equal keys, those of `first` come first."""
    xp = array_module(key)
    order = xp.argsort(~first, axis=1, kind="stable")
    rows = xp.arange(len(key))[:, None]
    return order[rows, xp.argsort(key[rows, order], axis=1, kind="stable")]


def _before(order, kind):
    """For each entry of a row, the number of `kind` up to and including it in `order`: r x n."""
    xp = array_module(order)
    rows = xp.arange(len(order))[:, None]
    counts = xp.empty(order.shape, np.int64)
    counts[rows, order] = xp.cumsum(kind[rows, order], axis=1, dtype=np.int64)
    return counts


def _of_list(distances, margin, a, p, n, allowed):
    """(weights, active, mined) as of _all, for the triplets (a, p, n) that are allowed."""
    active = allowed & (distances[a, p] - distances[a, n] + margin > 0)
    times, columns = active.astype(np.float64), distances.shape[1]
    of_positives, of_negatives = (
        sum_at(a * columns + other, distances.size, times) for other in (p, n)
    )
    return (of_positives - of_negatives).reshape(distances.shape), active.sum(), allowed.sum()
