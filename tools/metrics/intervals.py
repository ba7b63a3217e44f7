"""95 % intervals of figures by the bootstrap over images (Efron 1979), with SciPy.

Every figure here is a ratio of two sums over the images. A resample draws as many images as there
are, with replacement, and all ratios are computed on the same resamples. The interval lies between
the percentiles 2.5 and 97.5 of their values. The generator is seeded: same values, same interval.
"""

import warnings
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 1
MOST = 1 << 22  # values that a resampling step holds; bounds the memory at some 100 MB


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval (low, high); None if resamples leave it undefined."""

    value: float
    interval: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.interval is not None and len(self.interval) != 2:
            raise ValueError("an interval has two numbers")


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals were made: confidence, number of resamples, seed, SciPy's method."""

    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    seed: int = SEED
    method: str = "percentile"


def _ratio(above, below, axis=-1):
    """Sum / sum along an axis; nan where the lower sum is 0."""
    above, below = above.sum(axis=axis), below.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below == 0, np.nan, above / below)


def interval(statistic, *arrays, figures=1):
    """(low, high), each an array of shape `figures` or (), of statistic(*arrays, axis=-1).

    arrays: float, ... x N each, the images on the last axis, resampled together. figures: how many
    values of N the statistic gathers from one resample, for the bound on the memory.
    """
    count = arrays[0].shape[-1]
    from scipy import stats  # takes half a second, which readers of results need not wait for

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # nan, which says the same
        found = stats.bootstrap(
            arrays,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, MOST // (count * figures)),
            confidence_level=CONFIDENCE,
            method=Bootstrap.method,
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    return found.low, found.high


def ratios(figures):
    """{name: Estimate or None} of {name: (upper, lower)}: the sum of upper over that of lower.

    upper, lower: arrays of N numbers, one per image, e.g. right answers and ones. None where the
    sum of lower is 0. Arrays of all figures have one N.
    """
    if not figures:
        return {}
    above, below = (
        np.array([np.asarray(pair[i], np.float64) for pair in figures.values()]) for i in (0, 1)
    )  # figures x N
    values = _ratio(above, below)
    if above.shape[1] > 1:
        low, high = _intervals(above, below)
    else:  # one image says nothing about the spread
        low = high = np.full(len(values), np.nan)
    return {
        name: None
        if np.isnan(value)
        else Estimate(float(value), None if np.isnan(a + b) else (float(a), float(b)))
        for name, value, a, b in zip(figures, values, low, high)
    }


def _intervals(above, below):
    """(low, high), figures each; the images' numbers are gathered by their index."""

    def statistic(images, axis=-1):
        return _ratio(above[:, images], below[:, images])  # figures x resamples

    return interval(statistic, np.arange(above.shape[1]), figures=2 * len(above))
