"""Ranks of the true class among all scores of an image, and shares of images within the first k."""

import numpy as np

KS = (1, 2, 3, 5, 10)  # of top-k


def rank_of(scores, true):
    """int64, N: how many classes come before the true one; among equal scores, lower classes do.

    scores: N x C; true: int, N.
    """
    own = np.take_along_axis(scores, true[:, None], axis=1)  # N x 1
    before = np.arange(scores.shape[1]) < true[:, None]  # N x C
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def best(scores, k):
    """int64, N x k: the classes of the k highest scores, highest first, equal ones in order.

    scores: N x C; k: at most C.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def top(ranks, classes):
    """{k as text: share of the images whose true class is among the first k}, k of KS below C."""
    return {str(k): float((ranks < k).mean()) for k in KS if k < classes}
