"""Tests whether one row of a table is better than another, on the same images and seeds."""

import numpy as np

LEVEL = 0.05
STATED = (
    "paired permutation test over the images of the number of seeds that are right (exact), "
    "Holm-corrected within a column of one data set and network, p < 0.05, and a difference of the "
    "same sign for every seed"
)


def paired(right_a, right_b):
    """Exact two-sided p of the paired permutation test over images.

    right_a, right_b: bool, S x N: seeds x the same images. The statistic is the sum over images of
    d, the number of seeds for which a is right minus that of b. Where both are equally good, the
    sign of each image's d is arbitrary: the sum is then one of independent +-d, whose distribution
    is a convolution of binomial ones. With one seed this is McNemar's exact test. Seeds are
    averaged over, not drawn: p speaks of other images, for these trainings.
    """
    from scipy import stats  # takes half a second, which most commands need not wait for

    d = right_a.sum(axis=0, dtype=int) - right_b.sum(axis=0, dtype=int)  # N
    size = np.abs(d)
    total = int(size.sum())
    chance = np.ones(1)  # of each possible sum of the positive |d|, 0 .. total
    for value in range(1, int(size.max(initial=0)) + 1):
        count = int((size == value).sum())
        if not count:
            continue
        spread = np.zeros(value * count + 1)
        spread[::value] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, spread)
    positive = int(d[d > 0].sum())
    fewer = min(positive, total - positive)
    return min(1.0, 2 * float(chance[: fewer + 1].sum()))


def holm(values):
    """p-values corrected by Holm's step-down method (1979), in the order given."""
    values = np.asarray(values, float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    found = np.empty(len(values))
    found[order] = np.minimum(1, steps)
    return found


def same_sign(right_a, right_b):
    """Whether a is better for every seed, or worse for every seed."""
    difference = right_a.mean(axis=1) - right_b.mean(axis=1)  # S
    return bool((difference > 0).all() or (difference < 0).all())


def better(rights):
    """bool, R x R: whether row i is better than row j, after correction over all pairs.

    rights: [bool, S x N] of R rows; rows of other seeds or images are None, and never compared.
    """
    found = np.zeros((len(rights), len(rights)), bool)
    pairs = [
        (i, j)
        for i in range(len(rights))
        for j in range(i)
        if rights[i] is not None and rights[j] is not None
    ]
    if not pairs:
        return found
    corrected = holm([paired(rights[i], rights[j]) for i, j in pairs])
    for (i, j), p in zip(pairs, corrected):
        if p < LEVEL and same_sign(rights[i], rights[j]):
            first = rights[i].mean() > rights[j].mean()
            found[(i, j) if first else (j, i)] = True
    return found
