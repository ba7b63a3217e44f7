"""Does a training's accuracy still rise when it ends?"""

import numpy as np

LEAST = 4  # tests in the last third, for a line through them
LEVEL = 0.05  # of significance


def trend(iterations, accuracy):
    """(slope per iteration, one-sided p) of a line through the last third of the tests.

    p is the probability of such a slope where the accuracy does not rise (scipy.stats.linregress).
    (None, None) for fewer than LEAST tests in the last third; a constant accuracy has p = 1.
    """
    first = len(iterations) - len(iterations) // 3
    x, y = np.asarray(iterations[first:], float), np.asarray(accuracy[first:], float)
    if len(x) < LEAST:
        return None, None
    if np.ptp(y) == 0:
        return 0.0, 1.0
    from scipy import stats  # takes half a second, which most commands need not wait for

    line = stats.linregress(x, y, alternative="greater")
    return float(line.slope), float(line.pvalue)


def rises(p):
    """Whether a p of trend says that the accuracy still rises; None: unknown."""
    return None if p is None else p < LEVEL
