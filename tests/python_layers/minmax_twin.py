"""The Min-Max objective a second time: float64, loops, index sets as the paper writes them.

Shares no code with python_layers.
"""

import numpy as np


def minmax(x, labels, k1, k2, normalize):
    """(L, dL/dX, pairs in the intrinsic graph, pairs in the penalty graph); x is n x d."""
    raw = np.asarray(x, np.float64)
    x = raw / np.linalg.norm(raw, axis=1, keepdims=True) if normalize else raw
    n = len(x)

    def distance(i, j):
        return np.sum((x[i] - x[j]) ** 2)

    neighbours = {
        i: sorted(
            (j for j in range(n) if j != i and labels[j] == labels[i]), key=lambda j: distance(i, j)
        )[:k1]
        for i in range(n)
    }
    zeta = {
        c: sorted(
            ((i, j) for i in range(n) for j in range(n) if labels[i] == c and labels[j] != c),
            key=lambda pair: distance(*pair),
        )[:k2]
        for c in set(labels)
    }
    total, gradient = 0.0, np.zeros_like(x)
    intrinsic = penalty = 0
    for i in range(n):
        for j in range(n):
            pull = j in neighbours[i] or i in neighbours[j]
            push = (i, j) in zeta[labels[i]] or (j, i) in zeta[labels[j]]
            intrinsic, penalty = intrinsic + pull, penalty + push
            total += (pull - push) * distance(i, j) / n
            gradient[i] += (pull - push) * 2 * (x[i] - x[j]) / n
            gradient[j] += (pull - push) * 2 * (x[j] - x[i]) / n
    if normalize:
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        gradient = (gradient - x * np.sum(x * gradient, axis=1, keepdims=True)) / length
    return total, gradient, intrinsic / 2, penalty / 2
