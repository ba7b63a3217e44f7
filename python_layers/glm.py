"""The generalized large-margin (GLM) loss of one batch and its gradient: NumPy, no Caffe.

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

import numpy as np

from python_layers.labels import check_labels
from python_layers.pairwise import LossTerms, Pairwise, symmetric


def diagnostic_names(levels):
    """Names of the entries of the diagnostics for a tree of `levels` levels.

    Distances are means over the present classes that have them, 0 where none has; the shares are of
    the present classes: `active_j` has Mj > 0, `skipped_j` has an empty set in Mj.
    """
    shares = [f"{kind}_{j}" for kind in ("active", "skipped") for j in range(1, levels + 1)]
    return ["loss", "within", "between_min_sp", "between_max_sp", "between_min_not_sp"] + shares


def forward(features, labels, margins, k=1, within_gradient="paper", normalize=False, classes=None,
            anchors=None):
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
              from the first; samples behind them only complete the sets. None: all are.
    Returns LossTerms; `diagnostic_names` names its diagnostics. Raises ValueError for features or
    labels that can't be used.
    """
    if len(margins) != len(labels):
        raise ValueError(f"{len(margins)} margins for {len(labels)} label levels; "
                         "give one margin per level")
    labels = check_labels(labels, len(features))
    batch = Pairwise(features, normalize)

    fine, first, class_of = np.unique(labels[0], return_index=True, return_inverse=True)
    if classes is not None and fine[-1] >= classes:
        raise ValueError(f"label_1 holds class {fine[-1]} and there are only {classes} fine "
                         "classes, numbered from 0")
    ancestors = [level[first] for level in labels]
    member = (class_of == np.arange(len(fine))[:, None]).astype(np.float64)  # C x n
    count = member.sum(axis=1)
    within = np.einsum("ci,ci->c", member @ batch.distances, member) / (2 * count**2)
    pairs = _nearest_pairs(batch.distances, class_of, len(fine), k)
    between = pairs.mean_distances()

    anchor = np.unique(class_of[:anchors])
    constraints = _constraints(within, between, ancestors, margins, anchor)
    averaged_over = len(anchor) if classes is None else classes
    loss = sum(c.hinge.sum() for c in constraints) / averaged_over

    # dM / dD_W(c) and dM / dD_B(p, q), the latter for the ordered pair (anchor class, other class).
    on_within = np.zeros(len(fine))
    on_between = np.zeros_like(between)
    for constraint in constraints:
        constraint.add_weights(on_within, on_between, anchor)
    share = 1 - 1 / count if within_gradient == "paper" else np.ones_like(count)
    affinity = pairs.affinity(on_between / averaged_over)
    affinity += member.T @ ((on_within * share / count**2 / averaged_over)[:, None] * member)
    means = [within[anchor].mean()] + _between_diagnostics(constraints)
    shares = [c.active.mean() for c in constraints] + [1 - c.defined.mean() for c in constraints]
    return LossTerms(float(loss), batch.coefficients(affinity),
                     np.array([loss] + means + shares))


@dataclass(frozen=True)
class _Pairs:
    """The k nearest sample pairs of every two present classes: zeta_k of Eq. (8).

    i, j: samples;  p < q: their classes;  distance: |x_i - x_j|^2;  weight: 1 / pairs of (p, q).
    """

    i: np.ndarray
    j: np.ndarray
    p: np.ndarray
    q: np.ndarray
    distance: np.ndarray
    weight: np.ndarray
    samples: int
    classes: int

    def mean_distances(self):
        """D_B of Eq. (7): C x C, symmetric, 0 on the diagonal, where it means nothing."""
        return symmetric(self.p, self.q, self.weight * self.distance, self.classes)

    def affinity(self, on_between):
        """sum_{p,q} on_between[p, q] G^(p,q) / k: n x n, symmetric, by samples.  Eq. (8)"""
        weight = self.weight * (on_between + on_between.T)[self.p, self.q]
        return symmetric(self.i, self.j, weight, self.samples)


def _nearest_pairs(distances, class_of, classes, k):
    n = len(class_of)
    i, j = np.nonzero(class_of[:, None] < class_of)
    p, q = class_of[i], class_of[j]
    block = p * classes + q  # the two classes' block of the distance matrix
    if classes**2 <= np.iinfo(np.uint16).max:
        block = block.astype(np.uint16)  # stable sort of 16-bit integers is a radix sort
    near = np.argsort(distances[i, j])
    near = near[np.argsort(block[near], kind="stable")]
    sizes = np.bincount(block, minlength=classes**2)
    rank = np.arange(len(near)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = near[rank < k]
    i, j, p, q = i[chosen], j[chosen], p[chosen], q[chosen]
    weight = 1 / np.minimum(sizes[block[chosen]], k)
    return _Pairs(i, j, p, q, distances[i, j], weight, n, classes)


@dataclass(frozen=True)
class _Constraint:
    """One of M1..Mh for every class c of the mean, the anchors.

    far:   the smaller side: D_W(c) for M1 (far_class is None), max D_B over far_class for the rest.
    near:  the side that must be larger by the margin: min D_B, reached at near_class.
    hinge: the constraint's value, 0 where satisfied or where a set is empty.
    defined, active: booleans; active is the paper's delta, Eqs. (22), (23), (30).
    """

    far: np.ndarray
    near: np.ndarray
    far_class: np.ndarray | None
    near_class: np.ndarray
    hinge: np.ndarray
    defined: np.ndarray

    @property
    def active(self):
        return self.hinge > 0

    def add_weights(self, on_within, on_between, anchor):
        """Adds d(sum_c hinge_c)/dD_W and /dD_B, by Eqs. (20), (21), (29); c is anchor[row]."""
        row = np.flatnonzero(self.active)
        on_between[anchor[row], self.near_class[row]] -= 1
        if self.far_class is None:
            on_within[anchor[row]] += 1
        else:
            on_between[anchor[row], self.far_class[row]] += 1


def _constraints(within, between, ancestors, margins, anchor):
    within, between = within[anchor], between[anchor]
    itself = anchor[:, None] == np.arange(between.shape[1])
    same = [level[anchor][:, None] == level for level in ancestors]
    siblings = (same[1] if len(same) > 1 else np.ones_like(itself)) & ~itself
    nearest, near_class = _extreme(between, siblings, np.inf)
    constraints = [_constraint(within, None, nearest, near_class, margins[0])]
    for shared, margin in zip(same[1:], margins[1:]):
        farthest, far_class = _extreme(between, shared & ~itself, -np.inf)
        nearest, near_class = _extreme(between, ~shared, np.inf)
        constraints.append(_constraint(farthest, far_class, nearest, near_class, margin))
    return constraints


def _extreme(between, allowed, empty):
    """Smallest (empty = inf) or largest (empty = -inf) D_B over the allowed classes, and where.

    An empty set yields `empty` itself. Ties go to the lowest class, so results are repeatable.
    """
    masked = np.where(allowed, between, empty)
    where = masked.argmin(axis=1) if empty > 0 else masked.argmax(axis=1)
    return masked[np.arange(len(masked)), where], where


def _constraint(far, far_class, near, near_class, margin):
    defined = np.isfinite(far) & np.isfinite(near)
    hinge = np.zeros_like(far)
    hinge[defined] = np.maximum(far[defined] - near[defined] + margin, 0)
    return _Constraint(far, near, far_class, near_class, hinge, defined)


def _between_diagnostics(constraints):
    """Means of min D_B over SP, max D_B over SP, min D_B over notSP (parent level)."""
    absent = np.array([np.inf])
    parent = constraints[1] if len(constraints) > 1 else None
    sides = (constraints[0].near, *((parent.far, parent.near) if parent else (absent, absent)))
    return [float(side[np.isfinite(side)].mean()) if np.isfinite(side).any() else 0.0
            for side in sides]
