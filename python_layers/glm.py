"""The generalized large-margin (GLM) loss of one batch and its gradient: NumPy or CuPy, no Caffe.

Notation is the paper's. x_i is the feature of sample i, S_c the samples of fine class c, n_c their
number, m_c their mean; SP(c) are the other fine classes with c's parent, notSP(c) the rest.

    D_W(c)     = 1/n_c sum_{i in S_c} |x_i - m_c|^2                                Eq. (5)
               = 1/(2 n_c^2) sum_{i,j in S_c} |x_i - x_j|^2                        used here
    D_B(p, q)  = mean of the k smallest |x_i - x_j|^2 over i in S_p, j in S_q      Eqs. (7), (8)
    M1_c       = [D_W(c) - min_{q in SP(c)} D_B(c, q) + alpha_1]_+                 Eq. (9)
    Mj_c       = [max_{q in SP_j(c)} D_B(c, q) - min_{q in notSP_j(c)} D_B(c, q) + alpha_j]_+
                 for j = 2..h, where SP_j(c) shares c's j-th level label           Eqs. (10), (15)
    M          = mean over classes of sum_j Mj_c                                   Eqs. (14), (18)

Every term is a function of squared distances, so that the gradient follows from dM/d|x_i - x_j|^2
(pairwise.py). On a batch, absent classes take no part, a constraint with an empty set is skipped
(and counted), and k is capped by the number of pairs. With one level there is no parent: SP(c) is
every other class.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import active_indices, array_module, sum_at, vector
from python_layers.labels import check_labels, number_classes
from python_layers.pairwise import GRADIENT_NORM, Pairwise, ranked, symmetric


def diagnostic_names(levels):
    """Names of the entries of the diagnostics for a tree of `levels` levels.

    Distances are means over the classes c of Eq. (14) that have them, 0 where none has; the shares
    are of these classes: `active_j` has Mj > 0, `skipped_j` has an empty set in Mj.
    """
    means = ["within", "between_min_sp", "between_max_sp", "between_min_not_sp"]
    shares = [f"{kind}_{j}" for kind in ("active", "skipped") for j in range(1, levels + 1)]
    return ["loss", *means, *shares, GRADIENT_NORM]


def hinge(violation):
    """([v]_+, its derivative): what a violation v of a constraint costs, elementwise."""
    return array_module(violation).maximum(violation, 0), (violation > 0).astype(np.float64)


def forward(
    features,
    labels,
    margins,
    k=1,
    within_gradient="paper",
    normalize=False,
    scale=1.0,
    classes=None,
    penalty=hinge,
    anchors=None,
    gram=None,
):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   h vectors of n whole numbers, from the fine level up.
    margins:  h numbers, alpha_1..alpha_h, in squared feature distance.
    k:        number of nearest pairs that make a between-class distance.
    within_gradient: "exact" differentiates Eq. (5); "paper" is Eq. (20) as printed, which is the
              exact gradient of D_W times (1 - 1/n_c).
    normalize: scale the features to length `scale` first; distances are then in [0, 4 scale^2]. The
              gradient is still with respect to the features given.
    scale:    above 0; only with normalize.
    classes:  C(1) of Eq. (14), to average over all classes; None averages over those present.
    penalty:  function of the violations, an array, that returns their costs and the derivatives of
              these, both 0 at -inf.
    anchors:  number of samples, from the first, that are the current batch (memory.py): the mean of
              Eq. (14) is over their classes, and the gradient is theirs. None: all samples.
    gram:     n x n float64, X X^T, if it is known.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    if len(margins) != len(labels):
        raise ValueError(
            f"{len(margins)} margins for {len(labels)} label levels; give one margin per level"
        )
    labels = check_labels(labels, len(features), classes)
    batch = Pairwise(features, normalize, scale, gram=gram)
    xp, distances = array_module(features), batch.distances  # n x n, |x_i - x_j|^2
    fine = number_classes(labels[0])
    numbers = xp.arange(len(fine.first))  # C, the numbers of the classes
    counted = sum_at(fine.of[:anchors], len(numbers)) > 0  # C, the classes c of Eq. (14)

    # D_W(c), Eq. (5), from the distances within S_c.
    same = fine.of[:, None] == fine.of  # n x n
    size = xp.maximum(sum_at(fine.of, len(numbers)), 1)  # C, n_c; 1 for absent classes
    within = sum_at(fine.of, len(numbers), (distances * same).sum(axis=1)) / (2 * size**2)  # C

    # D_B(c, q), Eq. (7), from the pairs of Eq. (8).
    pairs = _nearest_pairs(distances, fine.of, counted, k)
    between = pairs.mean_distances()  # C x C

    # The nearest class outside and the farthest class inside each group of c, Eqs. (11)-(17).
    ancestors = xp.stack([level[fine.first] for level in labels])  # h x C
    inside = ancestors[:, :, None] == ancestors[:, None]  # h x C x C, SP_j(c) and c
    outside = ~inside
    if len(labels) > 1:
        outside[0] = inside[1]  # M1 separates c from its siblings, SP(c)
    other = counted[:, None] & fine.present & (numbers[:, None] != numbers)  # C x C
    nearest, nearest_class = _extreme(between, outside & other, np.inf)  # h x C
    farthest, farthest_class = _extreme(between, inside & other, -np.inf)  # h x C
    farthest[0] = within

    # Mj_c, Eqs. (9), (10), (15), and M, Eqs. (14), (18). An empty set makes the violation -inf.
    violation = farthest - nearest + vector(margins, features)[:, None]  # h x C
    cost, slope = penalty(violation)  # h x C; the slope of the hinge is the paper's delta
    averaged_over = counted.sum() if classes is None else classes
    loss = cost.sum(axis=1).sum() / averaged_over

    # dM/dD_B(c, q), Eqs. (20), (21), (29): -slope at the nearest class, slope at the farthest.
    at = numbers * len(numbers) + xp.concatenate([nearest_class, farthest_class[1:]])  # 2h-1 x C
    weight = xp.concatenate([-slope, slope[1:]])  # 2h-1 x C
    on_between = sum_at(at.ravel(), between.size, weight.ravel()) / averaged_over  # C^2

    # dM/d|x_i - x_j|^2: 1/n_c^2 for a pair of S_c, times 1 - 1/n_c in Eq. (20) as printed; 1/k for
    # a nearest pair. n x n, or r x n.
    factor = 1 - 1 / size if within_gradient == "paper" else xp.ones_like(size)  # C
    on_within = slope[0] * factor / size**2 / averaged_over  # C
    affinity = pairs.affinity(on_between.reshape(between.shape), anchors)
    affinity += same[:anchors] * on_within[fine.of]

    def diagnostics():
        meant = counted.sum()
        means = [(within * counted).sum() / meant, _finite_mean(nearest[0])]
        means += [_finite_mean(side[1]) if len(labels) > 1 else 0.0 for side in (farthest, nearest)]
        active = (violation > 0).sum(axis=1) / meant
        skipped = 1 - xp.isfinite(violation).sum(axis=1) / meant
        shares = [share[j] for share in (active, skipped) for j in range(len(labels))]
        return [loss, *means, *shares]

    return batch.terms(loss, affinity, diagnostics)


@dataclass(frozen=True)
class _Pairs:
    """The k nearest sample pairs of every two classes: zeta_k of Eq. (8).

    i, j:     samples;  p, q: their classes, of C = `classes`.
    distance: |x_i - x_j|^2.
    weight:   1 / number of pairs of (p, q), 0 where the entry is not such a pair.
    """

    i: Any
    j: Any
    p: Any
    q: Any
    distance: Any
    weight: Any
    samples: int
    classes: int

    def mean_distances(self):
        """D_B of Eq. (7): C x C, symmetric, 0 on the diagonal, where it has no meaning."""
        return symmetric(self.p, self.q, self.weight * self.distance, self.classes)

    def affinity(self, on_between, rows):
        """sum_{p,q} on_between[p, q] G^(p,q) / k, Eq. (8): n x n, symmetric, or its first rows."""
        weight = self.weight * (on_between + on_between.T)[self.p, self.q]
        return symmetric(self.i, self.j, weight, self.samples, rows)


def _nearest_pairs(distances, class_of, counted, k):
    """The _Pairs of every counted class with every other class, each pair of classes once.

    distances: n x n;  class_of: n class numbers below C;  counted: C booleans.
    """
    xp, n, classes = array_module(distances), len(class_of), len(counted)
    first = counted[class_of]  # n, whether the sample's class is counted
    order = class_of + classes * ~first  # n, counted classes before the others
    is_pair = first[:, None] & (order[:, None] < order)  # n x n
    i, j = active_indices(is_pair)
    # The number of the two classes, or classes^2 for an entry that is not a pair.
    group = xp.where(is_pair[i, j], class_of[i] * classes + class_of[j], classes**2)
    entry, rank, sizes = ranked(distances[i, j], group, classes**2 + 1)
    near = rank < k
    (kept,) = active_indices(near)
    entry = entry[kept]
    i, j, group = i[entry], j[entry], group[entry]
    weight = (near[kept] & is_pair[i, j]) / xp.minimum(sizes[group], k)
    return _Pairs(i, j, class_of[i], class_of[j], distances[i, j], weight, n, classes)


def _extreme(between, allowed, empty):
    """Smallest (empty = inf) or largest (empty = -inf) D_B over the allowed classes, and its class.

    between: C x C;  allowed: h x C x C. An empty set yields `empty` itself. Ties go to the lowest
    class, so that results are repeatable.
    """
    masked = array_module(between).where(allowed, between, empty)
    if empty > 0:
        return masked.min(axis=2), masked.argmin(axis=2)
    return masked.max(axis=2), masked.argmax(axis=2)


def _finite_mean(values):
    """The mean of the finite entries, 0 if there is none."""
    xp = array_module(values)
    finite = xp.isfinite(values)
    return xp.where(finite, values, 0).sum() / xp.maximum(finite.sum(), 1)
