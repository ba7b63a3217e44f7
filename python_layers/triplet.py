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

A generalized triplet loss (gtl.py) has several links, each with positives and negatives of its own:
the samples beside an anchor are in groups 0, 1, 2 .., and link j takes positives of group j and
negatives of group j + 1. This loss is one link.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import (
    active_indices,
    array_module,
    diagonal,
    on_host,
    sum_at,
    vector,
)
from python_layers.labels import check_labels
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
    labels = check_labels(labels, len(features))
    batch = Pairwise(features, normalize, scale, anchors, gram)
    xp, distances = array_module(features), batch.distances  # r x n
    groups = label_groups(labels, anchors)  # r x n, 0 for positives and 1 for negatives

    found = MINING[mining](distances, groups, [margin])
    ((hinges, active, mined),) = found.links
    counted = xp.maximum(active if average == "active" else mined, 1)  # N
    loss = hinges / counted

    def diagnostics():
        kinds = (groups == 0, groups == 1)
        means = [(distances * kind).sum() / xp.maximum(kind.sum(), 1) for kind in kinds]
        return [loss, active / xp.maximum(mined, 1), mined, *means]

    return batch.terms(loss, per_unordered_pair(found.weights([1 / counted])), diagnostics)


@dataclass(frozen=True)
class Mined:
    """The triplets of each link.

    links:   (sum of the hinges, number of active triplets, of mined ones) of each link.
    weights: function(a factor per link) -> r x n float64, dL / dD_aj of the sum of the links' sums
             of hinges times their factors; a pair (a, j) counts in this order only.
    """

    links: list
    weights: Callable[[Any], Any]


def label_groups(labels, anchors=None):
    """The group of each sample beside each anchor: r x n uint8.

    0 for the same fine class, j for the same label from level j + 1 up only, h for no common label;
    h + 1 for the anchor itself, which is in no link.  labels: h vectors of n, of a tree.
    """
    xp = array_module(labels[0])
    groups = xp.zeros((len(labels[0][:anchors]), len(labels[0])), np.uint8)
    for label in labels:
        groups += label[:anchors][:, None] != label
    diagonal(groups)[...] = len(labels) + 1
    return groups


def _each_link(mine):
    """A mining of all links from that of one.

    mine(distances, positive, negative, margin) -> (weights, active, mined): r x n, how often D_aj
    occurs in the sum of the active triplets' hinges, negative for a negative j; numbers of
    triplets.
    """

    def mine_links(distances, groups, margins):
        xp = array_module(distances)
        links, weights = [], []
        for j, margin in enumerate(margins):
            positive = groups == j
            of_link, active, mined = mine(distances, positive, groups == j + 1, margin)
            # An active triplet has its D_ap + m with weight 1 and its D_an with weight -1.
            hinges = xp.maximum((of_link * (distances + margin * positive)).sum(), 0.0)
            links.append((hinges, active, mined))
            weights.append(of_link)
        return Mined(links, lambda factors: sum(f * w for f, w in zip(factors, weights)))

    return mine_links


def _all(distances, positive, negative, margin):
    """Every triplet."""
    order = _order(distances + margin * positive, ~positive, 2)  # r x n
    nearer_positives, nearer_negatives = _before(order, positive), _before(order, negative)  # r x n
    positives = positive.sum(axis=1, keepdims=True)  # r x 1
    weights = positive * nearer_negatives - negative * (positives - nearer_positives)  # r x n
    mined = (positives * negative.sum(axis=1, keepdims=True)).sum()
    return weights, (positive * nearer_negatives).sum(), mined


def _hard(distances, positive, negative, margin):
    """For each a the farthest positive and the nearest negative."""
    xp = array_module(distances)
    allowed = positive.any(axis=1) & negative.any(axis=1)  # r
    (a,) = active_indices(allowed)
    p = xp.where(positive, distances, -np.inf)[a].argmax(axis=1)
    n = xp.where(negative, distances, np.inf)[a].argmin(axis=1)
    active = allowed[a] & (distances[a, p] - distances[a, n] + margin > 0)
    times, columns = active.astype(np.float64), distances.shape[1]
    of_positives, of_negatives = (
        sum_at(a * columns + other, distances.size, times) for other in (p, n)
    )
    weights = (of_positives - of_negatives).reshape(distances.shape)
    return weights, active.sum(), allowed.sum()


def _semihard(distances, groups, margins):
    """For each (a, p) the nearest negative farther than p, or the farthest negative.

    The rows are sorted once for all links, and the triplets of all links are found together. In a
    sorted row the negative is the next one of its group after p.
    """
    xp, (rows, columns), links = array_module(distances), distances.shape, len(margins)
    # Between equal distances the higher group comes first: negatives before positives.
    order = _order(distances, links + 1 - groups, links + 2)  # r x n
    order += columns * xp.arange(rows)[:, None]  # indices into the r x n entries
    groups = groups.take(order)  # r x n, nearest first
    counts = _counts(groups, links + 1)  # r x n x k, k > links
    places, groups = order.ravel(), groups.ravel()  # r n, row by row

    # Sorted by group as well, the entries of a group in a row are a segment, nearest first.
    by_group = xp.argsort(groups, kind="stable")  # r n
    sizes = counts[:, -1, : links + 1].T.astype(np.int64).ravel()  # (links + 1) r, of the segments
    ends = xp.cumsum(sizes)
    starts = ends - sizes

    p = by_group[: starts[links * rows]] if on_host(by_group) else by_group  # of groups < links
    group = groups[p]
    link = xp.minimum(group, links - 1).astype(np.int64)
    negatives = (link + 1) * rows + p // columns  # segments
    # Entries of the segment before p: it continues with the first one that is farther.
    nearer = counts.reshape(len(places), -1)[p, link + 1].astype(np.int64)
    first, last = starts[negatives], ends[negatives] - 1
    n = by_group[xp.minimum(first + nearer, last)]
    allowed = (first <= last) & (group < links)
    p, n = places[p], places[n]  # indices into the r x n distances
    hinges = distances.take(p) - distances.take(n) + vector(margins, distances)[link]
    hinges = xp.maximum(hinges, 0.0) * allowed  # of each triplet
    active = hinges > 0
    of_link = (xp.arange(links)[:, None] == link).astype(np.float64)  # links x triplets
    sums = xp.stack([hinges, active, allowed]) @ of_link.T  # 3 x links

    def weights(factors):
        times = active * vector(factors, distances)[link]
        of_pairs = sum_at(xp.concatenate([p, n]), rows * columns, xp.concatenate([times, -times]))
        return of_pairs.reshape(rows, columns)

    return Mined([tuple(sums[i, j] for i in range(3)) for j in range(links)], weights)


MINING = {"all": _each_link(_all), "semihard": _semihard, "hard": _each_link(_hard)}


def _counts(kinds, number):
    """For each entry of a row, how many of each kind there are up to it: r x n x k uint16.

    kinds:  r x n whole numbers; `number`, which is not counted, or below.
    number: of kinds, at most k.
    Four counters of 16 bits, enough for rows below 65536, are added as one integer of 64.
    """
    xp = array_module(kinds)
    steps = xp.zeros((number + 1, -(-number // 4) * 4), np.uint16)
    diagonal(steps[:number])[...] = 1
    return xp.cumsum(steps.view(np.uint64).take(kinds, axis=0), axis=1).view(np.uint16)


def _order(key, rank, ranks):
    """Each row's entries by `key`, r x n; between equal keys by `rank`, then by column.

    key:  r x n float64, at least 0.
    rank: r x n whole numbers below `ranks`.
    Floats of at least 0 are in the order of their bits, read as an integer. Rank and column take
    the place of the last bits, so that one sort of integers answers all. Keys that differ in these
    bits alone count as equal: with 128 columns and 4 ranks, in the last 9 of 52, as a distance of 1
    and one of 1 + 1e-13.
    """
    xp, columns = array_module(key), key.shape[1]
    of_column = (columns - 1).bit_length()
    room = of_column + (ranks - 1).bit_length()  # bits
    keys = key.view(np.int64) & -(1 << room)
    keys |= rank.astype(np.int64) * (1 << of_column) + xp.arange(columns)
    return xp.sort(keys, axis=1) & ((1 << of_column) - 1)


def _before(order, kind):
    """For each entry of a row, the number of `kind` up to and including it in `order`: r x n."""
    xp = array_module(order)
    rows = xp.arange(len(order))[:, None]
    counts = xp.empty(order.shape, np.int64)
    counts[rows, order] = xp.cumsum(kind[rows, order], axis=1, dtype=np.int64)
    return counts
