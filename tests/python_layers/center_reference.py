"""Reference implementation of the center loss: float64, loops, one equation after the other.

Shares no code with python_layers.
"""

import numpy as np


def center(x, labels, centers):
    """(L, dL/dX) with the mean over the batch; x is n x d, centers C x d."""
    x, centers = np.asarray(x, np.float64), np.asarray(centers, np.float64)
    total, gradient = 0.0, np.zeros_like(x)
    for i in range(len(x)):
        for k in range(x.shape[1]):
            offset = x[i, k] - centers[labels[i], k]
            total += offset**2 / 2 / len(x)
            gradient[i, k] = offset / len(x)
    return total, gradient


def moved(x, labels, centers, alpha=0.5):
    """The centers after the paper's Eq. (4)."""
    x, before = np.asarray(x, np.float64), np.asarray(centers, np.float64)
    after = before.copy()
    for j in range(len(before)):
        numerator, denominator = np.zeros(x.shape[1]), 1
        for i in range(len(x)):
            if labels[i] == j:
                numerator += before[j] - x[i]
                denominator += 1
        after[j] -= alpha * numerator / denominator
    return after
