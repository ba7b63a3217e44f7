"""Decisions: from the probabilities of every level to a path in the label tree.

Four rules, for the levels j = 0 (fine) .. h - 1, the classifiers' probabilities P_j(x) and the
ancestor a_j(c) of a fine class c on level j, a_0(c) = c:
    own    each level's own classifier: argmax P_j. The classes may lie on different paths. A level
           without classifier gets the ancestor of the fine class.
    fine   c = argmax P_0(c), and its ancestors.
    joint  the path of the largest product over the levels with a classifier: argmax of
           sum_j log P_j(a_j(c)).
    risk   the fine class of the least expected tree distance (conditional risk, Duda & Hart 1973,
           section 2.2; for label trees Karthik et al. 2021). The distance of two fine classes is
           the number of levels on which their ancestors differ, 0 .. h. Its expectation under P_0
           is h - sum_j Q_j(a_j(c)), where Q_j(g) is the sum of P_0 over the fine classes below g.
Ties go to the lower class.
"""

from dataclasses import dataclass

import numpy as np

RULES = ("own", "fine", "joint", "risk")
SMALLEST = np.finfo(np.float64).tiny  # stands for a probability of 0 in logarithms


@dataclass(frozen=True)
class Decided:
    """Decisions for N images in a tree of h levels.

    path      int64, N x h: the class on each level, fine to coarse
    best      int64, N x k: fine classes in the order of the rule; those of own are in that of fine
    own       {level: float64, N x classes}: the classifiers' probabilities
    from_fine [float64, N x classes] per level: sums of the fine classifier's probabilities
    joint     float64, N x k: of `best`, products of all levels' probabilities, divided by the sum
              over all paths
    distance  float64, N x k: of `best`, expected tree distances
    agree     bool, N: whether all classifiers' classes lie on the path of the fine one; None for
              a net with one classifier
    """

    path: np.ndarray
    best: np.ndarray
    own: dict
    from_fine: list
    joint: np.ndarray
    distance: np.ndarray
    agree: np.ndarray | None


def decide(hierarchy, probabilities, rule="fine", top=1):
    """Decided by one of RULES.

    probabilities: {level: N x classes}; level 0 must be there. top: number k of best paths, at most
    the number of fine classes.
    """
    own = {level: np.asarray(rows, np.float64) for level, rows in probabilities.items()}
    labels, top = hierarchy.labels, min(top, hierarchy.sizes[0])  # labels: classes x h
    from_fine = [sums(own[0], groups) for groups in labels.T]
    logs, distance = _log_products(labels, own), _distance(labels, from_fine)  # N x classes
    value = {"joint": logs, "risk": -distance}.get(rule, own[0])
    best = _largest(value, top)  # N x k
    classes = {level: rows.argmax(axis=1) for level, rows in own.items()}
    path = labels[best[:, 0]]  # N x h, a copy
    if rule == "own":
        for level, chosen in classes.items():
            path[:, level] = chosen
    agree = None
    if len(own) > 1:
        ancestors = labels[classes[0]]
        agree = np.all([ancestors[:, j] == chosen for j, chosen in classes.items()], axis=0)
    return Decided(
        path=path,
        best=best,
        own=own,
        from_fine=from_fine,
        joint=np.take_along_axis(_normalized(logs), best, axis=1),
        distance=np.take_along_axis(distance, best, axis=1),
        agree=agree,
    )


def sums(fine, groups):
    """float64, N x G: sums of the probabilities of the fine classes in each group.

    fine: N x C; groups: int, C, the group of each class, 0 .. G - 1.
    """
    found = np.zeros((groups.max() + 1, len(fine)))  # G x N
    np.add.at(found, groups, fine.T)  # in the order of the classes, whatever the batch
    return np.minimum(found.T, 1)  # float32 rows add up to 1 but for 1e-7


def joint(labels, probabilities):
    """int64, N: the fine class that the rule joint decides for.

    labels: C x h, Hierarchy.labels; probabilities: {level, 0 = fine: N x classes}.
    """
    return _log_products(labels, probabilities).argmax(axis=1)


def risk(labels, probabilities):
    """int64, N: the fine class that the rule risk decides for; as joint."""
    each = [sums(probabilities[0], groups) for groups in labels.T]
    return _distance(labels, each).argmin(axis=1)


def _log_products(labels, own):
    """Logarithm of the product of all classifiers' probabilities on each path, N x classes."""
    return sum(np.log(np.maximum(rows, SMALLEST))[:, labels[:, j]] for j, rows in own.items())


def _normalized(logs):
    """exp(logs), N x classes, divided by the sum of its row."""
    shifted = np.exp(logs - logs.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _distance(labels, each):
    """Expected tree distance of each fine class, N x classes. each: `sums` per level."""
    return sum(1 - rows[:, labels[:, j]] for j, rows in enumerate(each))


def _largest(value, k):
    """Columns of the k largest values per row, N x k, the largest first; ties: the lower column."""
    return np.argsort(-value, axis=1, kind="stable")[:, :k]
