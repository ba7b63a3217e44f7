"""Differences between two rows of a table, with intervals over seeds."""

import statistics
from dataclasses import dataclass

SHARE = 0.95
STATED = "95 % interval of Student's t, over the differences of equal seeds"


@dataclass(frozen=True)
class Effect:
    """A mean difference, and half the width of its interval."""

    mean: float
    half: float


def between(first, second):
    """Effect: second less first, each {seed: figure}; None unless they share two seeds.

    Training and test images are the same for all seeds: the interval speaks of other initial
    values, crops and dropout, not of other images.
    """
    from scipy import stats  # takes half a second, which most commands need not wait for

    found = [second[seed] - first[seed] for seed in sorted(set(first) & set(second))]
    if len(found) < 2:
        return None
    t = stats.t.ppf((1 + SHARE) / 2, len(found) - 1)
    return Effect(statistics.fmean(found), t * statistics.stdev(found) / len(found) ** 0.5)
