"""Squared distances between the features of a batch, and gradients of losses that depend on them.

A loss that is a function of the |x_i - x_j|^2 of a batch has a gradient that is a Laplacian matrix
times the features, as in Eqs. (20), (21) and (29) of the paper: one n x n matrix holds all of it.
With A_ij = dL / d|x_i - x_j|^2, symmetric,

    dL/dx_i = sum_j 2 A_ij (x_i - x_j) = (C X)_i,   C = 2 (diag(A 1) - A)

Distances come from a float64 Gram matrix: products of float32 numbers are exact there, so that its
error is some 1e-15 of |x|^2, far below any margin, where a float32 Gram matrix returns 0.75 for a
true 0.004 at 4096 dimensions. No array of size n x n x d is created.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from python_layers.backend import array_module, diagonal, on_host, row_products, sum_at, vector

# Last entry of every metric loss's diagnostics: the norm of the gradient that it sends into the
# features, over all components of all samples; in a Caffe layer with its loss_weight.
GRADIENT_NORM = "gradient_norm"

# Features are converted to float64 this many numbers at a time: a copy of all would be large for
# bilinear features (262144 dimensions), and slow, since the system clears the memory it hands out.
SCRATCH = 1 << 20

# A vector shorter than this has no direction: with `normalize` such a feature counts as zero.
SHORTEST = 1e-12

# A longer feature is refused: squared distances of longer ones, their sums over a batch and their
# gradients do not fit into float32, the type of Caffe's blobs. In float64 a squared distance of
# features of this length already has an error of 1e14.
LONGEST = 1e15

# Coefficients up to this one times features of LONGEST stay far inside float32.
LARGEST_COEFFICIENT = 1e18


@dataclass(frozen=True)
class LossTerms:
    """The results of a forward pass: for the backward pass and the diagnostics.

    loss:         a float; on a GPU an array without axes.
    coefficients: r x n float64, dLoss/dX = coefficients @ X for the first r samples; r = n unless
                  past samples follow the batch (memory.py).
    measure:      function that returns the entries of the diagnostics but the last, a list.
    gram:         n x n float64, X X^T.
    """

    loss: Any
    coefficients: Any
    measure: Callable[[], Any]
    gram: Any

    @cached_property
    def gradient_norm(self):
        """|dLoss/dX| over all components of all samples; from the Gram matrix, without dLoss/dX:
        |C X|^2 = sum_ij (C G)_ij C_ij."""
        squared = row_products(self.coefficients @ self.gram, self.coefficients).sum()
        xp = array_module(squared)
        return xp.sqrt(xp.maximum(squared, 0))

    def diagnostics(self, weight=1.0):
        """float64 vector; the loss's diagnostic_names names its entries.

        weight: of the loss; the last entry is the norm of the gradient with this weight.
        """
        return vector([*self.measure(), abs(weight) * self.gradient_norm], self.coefficients)

    def gradient(self, features, weight=1.0, own=slice(None), out=None):
        """weight * dLoss/dX for the features of the forward pass: own x d, their dtype.

        own: slice of the samples whose gradient is wanted.
        out: array for the result.
        The product is computed in the features' precision, since its rounding error is that of the
        features themselves. Coefficients too large for that, as those of features that nearly
        coincide near 0, are multiplied in float64. Raises ValueError if the gradient exceeds
        float32; values on a GPU are not checked.
        """
        coefficients = weight * self.coefficients[own]
        xp = array_module(features)
        if on_host(coefficients) and not _fit_float32(coefficients):
            exact = coefficients @ features.astype(np.float64)
            check_gradient(exact)
            exact = exact.astype(features.dtype)
            if out is None:
                return exact
            out[...] = exact
            return out
        return xp.matmul(coefficients.astype(features.dtype), features, out=out)


def _fit_float32(coefficients):
    return -LARGEST_COEFFICIENT < coefficients.min(initial=0) and (
        coefficients.max(initial=0) < LARGEST_COEFFICIENT
    )


class Pairwise:
    """The squared distances of a batch.

    features:  n x d, float32 or float64.
    normalize: scale the features to length `scale` first; distances are then in [0, 4 scale^2].
               Gradients are still with respect to the features given.
    scale:     above 0; only with normalize.
    anchors:   r, to compute the distances of the first r samples only; None: n.
    gram:      n x n float64, X X^T, if it is known; it is not changed.

    squares:   n float64, |y_i|^2, with y_i the feature after normalizing.
    distances: r x n float64, |y_i - y_j|^2, 0 between a sample and itself.
    Raises ValueError for features that check_features refuses, which are not checked on a GPU, and
    for a scale without normalize.
    """

    def __init__(self, features, normalize=False, scale=1.0, anchors=None, gram=None):
        if scale != 1 and not normalize:
            raise ValueError('"scale" is the length of normalized features; set "normalize": true')
        xp = array_module(features)
        self._features_gram = products(features) if gram is None else gram  # n x n
        squares = self._features_gram.diagonal()
        check_features(squares)
        self._gram = self._features_gram[:anchors]  # r x n, y_i.y_j
        self._factors, self._scale = None, scale
        if normalize:
            inverse = scale * inverse_lengths(xp.sqrt(squares))  # n, y = inverse x
            self._factors = xp.outer(inverse[:anchors], inverse)  # r x n
            self._gram = self._gram * self._factors
            squares = squares * (inverse * inverse)
        self.squares = squares
        # |y_i - y_j|^2 = |y_i|^2 + |y_j|^2 - 2 y_i.y_j, exactly 0 for i = j.
        self.distances = squares[:anchors][:, None] + squares - 2 * self._gram
        xp.maximum(self.distances, 0, out=self.distances)  # rounding may leave -1e-16

    def terms(self, loss, affinity, measure):
        """The LossTerms of a loss that depends on the distances.

        loss:     its value.
        measure:  function that returns the entries of the diagnostics but the last, a list.
        affinity: r x n, dLoss / d|x_i - x_j|^2 of each unordered pair; symmetric in its first r
        columns. Its diagonal cancels out, as in Eq. (7).
        """
        coefficients = self._coefficients(affinity)
        return LossTerms(loss, coefficients, measure, self._features_gram)

    def _coefficients(self, affinity):
        rows = len(affinity)
        coefficients = -2 * affinity
        own = diagonal(coefficients)
        own += 2 * affinity.sum(axis=1)
        if self._factors is not None:
            # y = s x/|x| has dL/dx = s/|x| (g - y (y.g) / s^2) with g = dL/dy = coefficients @ y:
            # still linear in the features, so that the chain rule needs no second pass over them.
            own -= row_products(coefficients, self._gram[:rows]) / self._scale**2
            coefficients *= self._factors[:rows]
        return coefficients


def per_unordered_pair(weights):
    """dL / d|x_i - x_j|^2 of each unordered pair, r x n, for L = sum_ij w_ij |x_i - x_j|^2.

    weights: w, r x n. A pair of the first r samples is in the sum twice, as (i, j) and as (j, i).
    """
    rows = len(weights)
    affinity = weights.copy()
    affinity[:, :rows] += weights[:, :rows].T
    return affinity


def products(features, first=None):
    """X X^T, n x n float64, or its first rows, those of `first` samples.

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
        with np.errstate(over="ignore", invalid="ignore"):  # check_features reports these
            found += block[:first] @ block.T
    return found


def inverse_lengths(lengths):
    """1 / lengths, 0 for those below SHORTEST."""
    xp = array_module(lengths)
    return xp.where(lengths > SHORTEST, 1 / xp.maximum(lengths, SHORTEST), 0)


def symmetric(row, column, values, size, rows=None):
    """The size x size matrix that sums the values at (row, column) and at (column, row), or its
    first `rows` rows."""
    if rows is None or rows >= size:
        half = sum_at(row * size + column, size**2, values).reshape(size, size)
        return half + half.T
    end = rows * size  # entries of later rows are added to one more, which is cut off
    halves = [
        sum_at(array_module(row).minimum(i * size + j, end), end + 1, values)[:end]
        for i, j in ((row, column), (column, row))
    ]
    return (halves[0] + halves[1]).reshape(rows, size)


def ranked(values, group, groups, kind=None):
    """(order, rank, sizes): the entries sorted by group, and by value inside a group.

    values, group: vectors; group holds whole numbers below `groups`.
    order: indices of the entries, sorted;  rank: place of each of these in its group, from 0;
    sizes: number of entries of each group.
    kind: NumPy's name of the sort by value; "stable" keeps equal values in their order.
    """
    xp = array_module(values)
    if on_host(group) and groups <= np.iinfo(np.uint16).max:
        group = group.astype(np.uint16)  # NumPy's stable sort of 16-bit integers is a radix sort
    order = xp.argsort(values, kind=kind)
    order = order[xp.argsort(group[order], kind="stable")]
    sizes = sum_at(group, groups)
    rank = xp.arange(len(order)) - (xp.cumsum(sizes) - sizes)[group[order]]
    return order, rank, sizes


def check_features(squares, what="features"):
    """Raises ValueError if a sample's feature holds nan or inf, or is longer than LONGEST.

    squares: n squared lengths. Those on a GPU are not checked.
    what:    what the lengths are of, for the message.
    """
    if not on_host(squares):
        return
    for bad, fault in (
        (~np.isfinite(squares), "hold nan or inf"),
        (squares > LONGEST**2, f"are longer than {LONGEST:g}, too long for float32"),
    ):
        if bad.any():
            raise ValueError(
                f"the {what} of {bad.sum()} of {len(squares)} samples {fault} (first: sample "
                f"{np.flatnonzero(bad)[0]}): either training has diverged, and a lower base_lr or "
                "loss_weight is needed, or it began without the pretrained weights (-weights) that "
                "this net needs"
            )


def check_loss(loss):
    """Raises ValueError if float32, the type of Caffe's blobs, can't hold the loss. Nothing is
    checked on a GPU. A loss that grows with a power of the distances can do this."""
    if (isinstance(loss, float) or on_host(loss)) and not abs(loss) <= np.finfo(np.float32).max:
        raise ValueError(
            f"the loss is {loss:.3g}, which exceeds float32: the features are too long for it; "
            'lower base_lr, or set "normalize": true'
        )


def check_gradient(gradient):
    """Raises ValueError if float32 can't hold the gradient, on the host."""
    if not (np.abs(gradient) <= np.finfo(np.float32).max).all():
        raise ValueError(
            "the gradient with respect to the features is nan or exceeds float32; lower loss_weight"
        )
