"""Statistics of right and wrong predictions, using NumPy only."""

import math

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(right, total):
    """95 % confidence interval (low, high), in 0..1, of the share right/total (Wilson 1927)."""
    share, z2 = right / total, Z95**2 / total
    middle = share + z2 / 2
    reach = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total))
    return max(0.0, (middle - reach) / (1 + z2)), min(1.0, (middle + reach) / (1 + z2))


def mcnemar(right_a, right_b):
    """Exact two-sided p-value of McNemar's test: do two classifiers err equally often?

    right_a, right_b: bool, N, the same images in the same order. 1.0 where neither is ever right
    alone.
    """
    only_a = int(np.sum(right_a & ~right_b))
    alone = only_a + int(np.sum(~right_a & right_b))
    fewer = min(only_a, alone - only_a)
    tail, term = 0, 1  # term = binomial coefficient (alone over i), exact integers
    for i in range(fewer + 1):
        tail += term
        term = term * (alone - i) // (i + 1)
    return min(1.0, tail * 2 / 2**alone)


def softmax(scores):
    """Probabilities, N x C, of scores, N x C, in float64."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    return shifted / shifted.sum(axis=1, keepdims=True)


def in_top(scores, true, k):
    """bool, N: whether the true class is among the k highest scores. Ties go to the lower class."""
    return (np.argsort(-scores, axis=1, kind="stable")[:, :k] == true[:, None]).any(axis=1)


def confusion(true, predicted, classes):
    """int64, classes x classes: row = true class, column = predicted class, value = images."""
    counts = np.bincount(true * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)
