"""Squared distances between all features of a batch, and gradients of losses made of them.

A loss that is a function of the |x_i - x_j|^2 of a batch has a gradient that is a Laplacian matrix
times the features, as in Eqs. (20), (21) and (29) of the paper: one n x n matrix holds all of it.
Distances come from a float64 Gram matrix: products of float32 numbers are exact there, so that its
error is some 1e-15 of |x|^2, far below any margin, where a float32 Gram matrix returns 0.75 for a
true 0.004 at 4096 dimensions. Nothing of size n x n x d is ever made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from python_layers.backend import array_module, diagonal, on_host, row_products, sum_at

# Features are converted to float64 this many numbers at a time: a copy of all would be large for
# bilinear features (262144 dimensions), and slow, since the system clears the memory it hands out.
SCRATCH = 1 << 20

# A feature shorter than this has no direction; with `normalize` it counts as zero.
SHORTEST = 1e-12


@dataclass(frozen=True)
class LossTerms:
    """What a forward pass leaves for the backward pass and for the diagnostics.

    loss:         a float; on a GPU an array without axes.
    coefficients: n x n float64, dLoss/dX = coefficients @ X.
    measure:      computes the diagnostics, for whoever wants them.
    """

    loss: Any
    coefficients: Any
    measure: Callable[[], Any]

    @cached_property
    def diagnostics(self):
        """float64 vector; what it holds is the loss's own affair."""
        return self.measure()

    def gradient(self, features, weight=1.0, own=slice(None), out=None):
        """weight * dLoss/dX for the features of the forward pass: own x d, their dtype.

        own: of which samples. The others only cost their part of the product.
        out: where to put it.
        In the features' own precision: rounding the product errs as much as rounding the features
        did.
        """
        coefficients = (weight * self.coefficients[own]).astype(features.dtype)
        return array_module(features).matmul(coefficients, features, out=out)


class Pairwise:
    """The squared distances of a batch.

    features:  n x d, float32 or float64.
    normalize: L2-normalise the features first; distances are then in [0, 4]. Gradients are still
               with respect to the features given.
    rows:      indices, rising, of the r samples whose distances to all are wanted.
    gram:      n x n, X X^T, where it is known; stays as it is.
    squares:   n float64, |x_i|^2, after any normalising.
    distances: r x n float64, 0 between a sample and itself.
    Raises ValueError for features with nan or inf; on a GPU the distances then hold nan.
    """

    def __init__(self, features, normalize=False, rows=slice(None), gram=None):
        xp = array_module(features)
        whole = products(features) if gram is None else gram
        square = whole.diagonal()
        check_finite(square)
        gram = whole[rows]
        self._scale = None
        if normalize:
            inverse = inverse_lengths(xp.sqrt(square))
            self._scale = xp.outer(inverse[rows], inverse)
            gram = gram * self._scale
            square = square * (inverse * inverse)
        self._gram = gram
        self.squares = square
        # Exactly 0 between a sample and itself: a + a - 2 a.
        self.distances = square[rows][:, None] + square - 2 * gram
        xp.maximum(self.distances, 0, out=self.distances)  # rounding may leave -1e-16

    def coefficients(self, affinity):
        """C such that dLoss/dX = C @ X, n x n, or its first m rows.

        affinity: dLoss / d distances[i, j] per unordered pair, n x n, symmetric, or its first m
        rows, of samples that `rows` has at the same places; its diagonal cancels out, as in Eq.
        (7).
        """
        rows = len(affinity)
        coefficients = -2 * affinity
        own = diagonal(coefficients)
        own += 2 * affinity.sum(axis=1)
        if self._scale is not None:
            # y = x/|x| has dM/dx = (g - y (y.g)) / |x| with g = dM/dy = coefficients @ y: still
            # linear in the features, so the chain rule needs no second pass over them.
            own -= row_products(coefficients, self._gram[:rows])
            coefficients *= self._scale[:rows]
        return coefficients


def products(features, first=None):
    """X X^T, n x n float64, or its first rows, those of so many samples.

    In float64 also on a GPU for which that is slow, 1/64 of float32 on a GeForce: 128 x 4096
    features take 0.1 GFLOP, far less than a millisecond there, and 64 of a bilinear CNN 2 GFLOP, of
    the 20000 of its training step.
    """
    xp = array_module(features)
    n, dimensions = features.shape
    found = xp.zeros((n if first is None else first, n))
    columns = max(1, SCRATCH // n)
    scratch = xp.empty(n * min(columns, dimensions))
    for start in range(0, dimensions, columns):
        width = min(columns, dimensions - start)
        block = scratch[: n * width].reshape(n, width)
        block[...] = features[:, start : start + width]
        found += block[:first] @ block.T
    return found


def inverse_lengths(lengths):
    """1 / lengths, 0 for those that are too short to have a direction."""
    xp = array_module(lengths)
    return xp.where(lengths > SHORTEST, 1 / xp.maximum(lengths, SHORTEST), 0)


def symmetric(row, column, values, size, rows=None):
    """The size x size matrix that sums the values at (row, column) and at (column, row), or its
    first `rows` rows."""
    if rows is None:
        half = sum_at(row * size + column, size**2, values).reshape(size, size)
        return half + half.T
    end = rows * size  # what lies behind is summed there
    halves = [
        sum_at(array_module(row).minimum(i * size + j, end), end + 1, values)[:end]
        for i, j in ((row, column), (column, row))
    ]
    return (halves[0] + halves[1]).reshape(rows, size)


def ranked(values, group, groups, kind=None):
    """(order, rank, sizes): the entries sorted by group, and by value inside a group.

    values, group: vectors; group holds whole numbers below `groups`.
    order: which entry is where;  rank: its place in its group, from 0;  sizes: of the groups.
    kind: NumPy's, of the sort by value: "stable" lets equal values keep their order.
    """
    xp = array_module(values)
    if on_host(group) and groups <= np.iinfo(np.uint16).max:
        group = group.astype(np.uint16)  # NumPy's stable sort of 16-bit integers is a radix sort
    order = xp.argsort(values, kind=kind)
    order = order[xp.argsort(group[order], kind="stable")]
    sizes = sum_at(group, groups)
    rank = xp.arange(len(order)) - (xp.cumsum(sizes) - sizes)[group[order]]
    return order, rank, sizes


def check_finite(square):
    """Raises ValueError if a sample's squared length is nan or inf; square: n of them, on the host.

    Those on a GPU are not looked at.
    """
    if not on_host(square):
        return
    bad = np.flatnonzero(~np.isfinite(square))
    if len(bad):
        raise ValueError(
            f"the features of {len(bad)} of {len(square)} samples hold nan or inf "
            f"(first: sample {bad[0]}): training has diverged; lower base_lr or "
            "the loss_weights"
        )
