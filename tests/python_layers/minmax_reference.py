"""Reference implementation of the Min-Max objective: float64, loops, the paper's index sets.

Shares no code with python_layers.
"""

import numpy as np


def minmax(x, labels, k1, k2, normalize, scale=1, anchors=None, k2_per="class"):
    """(L, dL/dX, pairs in the intrinsic graph, pairs in the penalty graph); x is n x d.

    anchors: the neighbors and the nearest pairs are those of this number of first samples i.
    """
    raw = np.asarray(x, np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True) if normalize else raw
    x = scale * unit
    n, own = len(x), range(len(x))[:anchors]

    def distance(i, j):
        return np.sum((x[i] - x[j]) ** 2)

    neighbors = {
        i: sorted(
            (j for j in range(n) if j != i and labels[j] == labels[i]), key=lambda j: distance(i, j)
        )[:k1]
        for i in own
    }
    foreign = {
        i: sorted((j for j in range(n) if labels[j] != labels[i]), key=lambda j: distance(i, j))[
            :k2
        ]
        for i in own
    }
    zeta = {
        c: sorted(
            ((i, j) for i in own for j in range(n) if labels[i] == c and labels[j] != c),
            key=lambda pair: distance(*pair),
        )[:k2]
        for c in set(labels)
    }
    if k2_per == "sample":
        pairs = {(i, j) for i, others in foreign.items() for j in others}
        zeta = {c: pairs for c in zeta}
    total, gradient = 0.0, np.zeros_like(x)
    intrinsic = penalty = 0
    for i in range(n):
        for j in range(n):
            pull = j in neighbors.get(i, ()) or i in neighbors.get(j, ())
            push = (i, j) in zeta[labels[i]] or (j, i) in zeta[labels[j]]
            intrinsic, penalty = intrinsic + pull, penalty + push
            total += (pull - push) * distance(i, j) / len(own)
            gradient[i] += (pull - push) * 2 * (x[i] - x[j]) / len(own)
            gradient[j] += (pull - push) * 2 * (x[j] - x[i]) / len(own)
    if normalize:
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        along = unit * np.sum(unit * gradient, axis=1, keepdims=True)
        gradient = scale * (gradient - along) / length
    return total, gradient, intrinsic / 2, penalty / 2
