"""Calibration: does a classifier that is 80 % sure err in a fifth of the images?

Expected calibration error, ECE (Naeini, Cooper, Hauskrecht 2015; Guo, Pleiss, Sun, Weinberger: On
Calibration of Modern Neural Networks, ICML 2017, Eq. 3), with BINS bins of equal width.
"""

from dataclasses import dataclass

import numpy as np

from .intervals import Estimate, interval

BINS = 15
EDGES = np.arange(BINS + 1) / BINS


@dataclass(frozen=True)
class Bin:
    """Images whose highest probability is above `low` and up to `high`; confidence: its mean."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float

    def __post_init__(self):
        if self.images < 1 or not 0 <= min(self.confidence, self.accuracy):
            raise ValueError("a bin has images, a confidence and an accuracy from 0 on")


@dataclass(frozen=True)
class Calibration:
    """ECE in 0..1, and the bins that hold images."""

    ece: Estimate
    bins: tuple[Bin, ...]


def calibration(sure, right):
    """Calibration of a classifier. sure: float N, highest probabilities; right: bool, N."""
    number = np.clip(np.searchsorted(EDGES, sure, side="left") - 1, 0, BINS - 1)  # N
    images = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, values, BINS) for values in (sure, right)]
    bins = tuple(
        Bin(float(EDGES[i]), float(EDGES[i + 1]), int(n), float(a / n), float(b / n))
        for i, (n, a, b) in enumerate(zip(images, *sums))
        if n
    )
    gap = np.asarray(right, np.float64) - sure

    def error(chosen, axis=-1):
        """ECE of resamples: chosen: int, ... x N."""
        rows = np.arange(chosen[..., 0].size)[:, None] * BINS
        flat = chosen.reshape(len(rows), -1)  # resamples x N
        cells = np.bincount((number[flat] + rows).ravel(), gap[flat].ravel(), len(rows) * BINS)
        total = np.abs(cells.reshape(len(rows), BINS)).sum(axis=1) / flat.shape[1]
        return total.reshape(chosen.shape[:-1])

    every = np.arange(len(gap))
    spread = interval(error, every, figures=3) if len(gap) > 1 else None
    return Calibration(
        Estimate(float(error(every)), spread and (float(spread[0]), float(spread[1]))), bins
    )
