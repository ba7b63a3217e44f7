"""The generalized large-margin (GLM) loss of one batch and its gradient: NumPy or CuPy, no Caffe.

Notation is the paper's. x_i is the feature of sample i, S_c the samples of fine class c, n_c their
number, m_c their mean; SP(c) are the other fine classes with c's parent, notSP(c) the rest.

    D_W(c)     = 1/n_c sum_{i in S_c} |x_i - m_c|^2                                Eq. (5)
    D_B(p, q)  = mean of the k smallest |x_i - x_j|^2 over i in S_p, j in S_q      Eqs. (7), (8)
    M1_c       = [D_W(c) - min_{q in SP(c)} D_B(c, q) + alpha_1]_+                 Eq. (9)
    Mj_c       = [max_{q in SP_j(c)} D_B(c, q) - min_{q in notSP_j(c)} D_B(c, q) + alpha_j]_+
                 for j = 2..h, where SP_j(c) shares c's j-th level label           Eqs. (10), (15)
    M          = mean over classes of sum_j Mj_c                                   Eqs. (14), (18)

On a batch: classes that are absent take no part, a constraint with an empty set is skipped (and
counted), and k is capped by the number of pairs. With one level there is no parent: SP(c) is every
other class.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, on_host, picked, row_products, sum_at, vector
from python_layers.labels import check_labels, number_classes
from python_layers.pairwise import LossTerms, Pairwise, ranked, symmetric


def diagnostic_names(levels):
    """Names of the entries of the diagnostics for a tree of `levels` levels.

    Distances are means over the present classes that have them, 0 where none has; the shares are of
    the present classes: `active_j` has Mj > 0, `skipped_j` has an empty set in Mj. Present
    are with `anchors` their classes.
    """
    shares = [f"{kind}_{j}" for kind in ("active", "skipped") for j in range(1, levels + 1)]
    return ["loss", "within", "between_min_sp", "between_max_sp", "between_min_not_sp"] + shares


def forward(
    features,
    labels,
    margins,
    k=1,
    within_gradient="paper",
    normalize=False,
    classes=None,
    anchors=None,
    gram=None,
):
    """The loss of one batch.

    features: n x d, float32 or float64, finite.
    labels:   h vectors of n whole numbers, from the fine level up.
    margins:  h numbers, alpha_1..alpha_h, in squared feature distance.
    k:        nearest pairs that make a between-class distance.
    within_gradient: "exact" differentiates Eq. (5); "paper" is Eq. (20) as printed, which is the
              exact gradient of D_W times (1 - 1/n_c).
    normalize: L2-normalise the features first; distances are then in [0, 4]. The gradient is still
              with respect to the features given.
    classes:  C(1) of Eq. (14), to average over all classes; None averages over those present.
    anchors:  the c of Eq. (14)'s mean, and of the diagnostics, are the classes of so many samples,
              from the first; samples behind them only complete the sets, and have no gradient:
              the coefficients are those of the anchors' rows. None: all are.
    gram:     n x n float64, X X^T, where it is known.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    if len(margins) != len(labels):
        raise ValueError(
            f"{len(margins)} margins for {len(labels)} label levels; give one margin per level"
        )
    labels = check_labels(labels, len(features))
    if classes is not None and on_host(labels[0]) and labels[0].max() >= classes:
        raise ValueError(
            f"label_1 holds class {labels[0].max()} and there are only {classes} fine "
            "classes, numbered from 0"
        )
    xp = array_module(features)
    fine = number_classes(labels[0])
    numbers, order = xp.arange(len(fine.first)), fine.of
    member = (fine.of == numbers[:, None]).astype(np.float64)  # C x n
    anchor = fine.present
    rows = chosen = slice(None)  # the samples and the numbers of the classes c
    if anchors is not None:
        anchors = min(anchors, len(features))
        anchor = member[:, :anchors].any(axis=1)
        rows, chosen = picked(anchor[fine.of]), picked(anchor)
        order = order + len(numbers) * ~anchor[fine.of]  # the anchors' classes first
    batch = Pairwise(features, normalize, rows, gram)
    pairs = _nearest_pairs(batch.distances, rows, order, fine.of, len(numbers), k)
    between = pairs.mean_distances()[chosen]
    member, anchor = member[chosen], anchor[chosen]
    anchored = anchor.sum()
    count = xp.maximum(member.sum(axis=1), 1)  # 1 for absent classes, whose sums are 0
    within = row_products(member[:, rows] @ batch.distances, member) / (2 * count**2)

    ancestors = xp.stack([level[fine.first] for level in labels])
    other = anchor[:, None] & fine.present & (numbers[chosen][:, None] != numbers)
    constraints = _constraints(within, between, ancestors, chosen, margins, other)
    averaged_over = anchored if classes is None else classes
    loss = constraints.hinge.sum(axis=1).sum() / averaged_over

    on_within, on_between = constraints.weights(numbers[chosen], len(numbers))
    share = 1 - 1 / count if within_gradient == "paper" else xp.ones_like(count)
    affinity = pairs.affinity(on_between / averaged_over, anchors)
    on_within = on_within * share / count**2 / averaged_over
    affinity += member.T[:anchors] @ (on_within[:, None] * member)

    def diagnostics():
        means = [(within * anchor).sum() / anchored] + _between_diagnostics(constraints)
        active = constraints.active.sum(axis=1) / anchored
        skipped = 1 - constraints.defined.sum(axis=1) / anchored
        shares = [share[j] for share in (active, skipped) for j in range(len(labels))]
        return vector([loss] + means + shares, features)

    return LossTerms(loss, batch.coefficients(affinity), diagnostics)


@dataclass(frozen=True)
class _Pairs:
    """The k nearest sample pairs of every two classes: zeta_k of Eq. (8).

    i, j: samples;  p, q: their classes;  distance: |x_i - x_j|^2;  weight: 1 / pairs of (p, q), 0
    where the entry is no such pair.
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
        """D_B of Eq. (7): C x C, symmetric, 0 on the diagonal, where it means nothing."""
        return symmetric(self.p, self.q, self.weight * self.distance, self.classes)

    def affinity(self, on_between, rows):
        """sum_{p,q} on_between[p, q] G^(p,q) / k: n x n, symmetric, by samples, or its first rows,
        if not None.  Eq. (8)"""
        weight = self.weight * (on_between + on_between.T)[self.p, self.q]
        return symmetric(self.i, self.j, weight, self.samples, rows)


def _nearest_pairs(distances, rows, order, class_of, classes, k):
    """The _Pairs of those of the rows with all samples, each pair of classes once.

    distances: r x n, of the samples rows, which are indices or a slice;  order: a number for each
    sample, which tells the classes apart: p comes before q, and q's samples need not be in rows.
    """
    xp, n = array_module(distances), len(class_of)
    p_before_q = order[rows][:, None] < order
    # The two classes' block of the distance matrix; one more for what is no pair.
    block = class_of[rows][:, None] * classes + class_of
    block = xp.where(p_before_q, block, classes**2).ravel()
    is_pair = p_before_q.ravel()
    pair = picked(is_pair)  # in the r x n distances
    block, distance = block[pair], distances.ravel()[pair]
    order, rank, sizes = ranked(distance, block, classes**2 + 1)
    near = rank < k
    kept = picked(near)
    chosen = order[kept]
    block, distance = block[chosen], distance[chosen]
    pair = chosen if isinstance(pair, slice) else pair[chosen]
    weight = (near[kept] & is_pair[pair]) / xp.minimum(sizes[block], k)
    i, j = xp.arange(n)[rows][pair // n], pair % n
    return _Pairs(i, j, class_of[i], class_of[j], distance, weight, n, classes)


@dataclass(frozen=True)
class _Constraints:
    """M1..Mh for every class c that is wanted: arrays h x c.

    far:   the smaller side: D_W(c) for M1, max D_B, reached at far_class, for the rest.
    near:  the side that must be larger by the margin: min D_B, reached at near_class.
    hinge: the constraints' values, 0 where satisfied or where a set is empty.
    defined, active: booleans; active is the paper's delta, Eqs. (22), (23), (30).
    """

    far: Any
    near: Any
    far_class: Any
    near_class: Any
    hinge: Any

    @property
    def active(self):
        return self.hinge > 0

    @property
    def defined(self):
        isfinite = array_module(self.far).isfinite
        return isfinite(self.far) & isfinite(self.near)

    def weights(self, numbers, classes):
        """(on_within, on_between): d(sum hinge)/dD_W, per class c, and /dD_B(c, q), C x C, for the
        class c in the row and the other in the column.  Eqs. (20), (21), (29)

        numbers: of the classes c among the C = `classes`.
        """
        xp, active = array_module(self.hinge), self.active.astype(np.float64)
        other = xp.concatenate([self.near_class, self.far_class[1:]])
        index = numbers * classes + other
        weight = xp.concatenate([-active, active[1:]])
        on_between = sum_at(index.ravel(), classes**2, weight.ravel())
        return active[0], on_between.reshape(classes, classes)


def _constraints(within, between, ancestors, chosen, margins, other):
    """within: per class c;  between: c x C;  ancestors: h x C labels;  chosen: the c, indices or a
    slice;  other: c x C, which classes c is compared with, before the tree parts them."""
    same = ancestors[:, chosen][:, :, None] == ancestors[:, None]
    apart = ~same
    if len(same) > 1:
        apart[0] = same[1]  # M1 holds c's siblings apart, the others c's relatives and the rest
    near, near_class = _extreme(between, apart & other, np.inf)
    far, far_class = _extreme(between, same & other, -np.inf)
    far[0] = within
    # An empty set leaves far = -inf or near = inf: the hinge is 0.
    hinge = array_module(far).maximum(far - near + vector(margins, far)[:, None], 0)
    return _Constraints(far, near, far_class, near_class, hinge)


def _extreme(between, allowed, empty):
    """Smallest (empty = inf) or largest (empty = -inf) D_B over the allowed classes, and where.

    allowed: h x c x C. An empty set yields `empty` itself. Ties go to the lowest class, so results
    are repeatable.
    """
    masked = array_module(between).where(allowed, between, empty)
    if empty > 0:
        return masked.min(axis=2), masked.argmin(axis=2)
    return masked.max(axis=2), masked.argmax(axis=2)


def _between_diagnostics(constraints):
    """Means of min D_B over SP, max D_B over SP, min D_B over notSP (parent level)."""
    sides = [constraints.near[0]]
    if len(constraints.near) > 1:
        sides += [constraints.far[1], constraints.near[1]]
    return [_finite_mean(side) for side in sides] + [0.0] * (3 - len(sides))


def _finite_mean(side):
    """The mean of the finite entries, 0 if there is none."""
    xp = array_module(side)
    finite = xp.isfinite(side)
    kept = picked(finite)
    return xp.where(finite[kept], side[kept], 0).sum() / xp.maximum(finite.sum(), 1)
