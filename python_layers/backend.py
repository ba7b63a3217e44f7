"""NumPy on the host, CuPy on a GPU: what lets one text of the maths serve both.

A GPU works off a queue of kernels, while Python runs ahead of it. Python must wait for the queue
and copy a value to the host wherever it wants to know one: for float(), bool() and int(), for an
index by booleans, and in nonzero, unique and bincount, whose result has a size that depends on
values. So the maths takes its shapes from the batch alone. Where the host picks the few entries
that matter, a GPU, for which some more entries cost nothing, keeps them all, and a mask says which
count. (CuPy's sorts wait too before CuPy 14, cupy/cupy pull request 9497: slower, and as right.)

What the host refuses with an error, a value that nobody looks at can't be refused for: on a GPU
features with nan or inf make the loss nan or inf, and labels are taken as they come, as Caffe's own
SoftmaxWithLoss takes them there.
"""

import sys

import numpy as np


def on_host(array):
    return isinstance(array, (np.ndarray, np.generic))


def array_module(array):
    """numpy or cupy, whichever the array belongs to. CuPy is never imported here."""
    return np if on_host(array) else sys.modules["cupy"]


def candidates(mask):
    """The indices of the entries of a boolean array that can be true, one array per axis.

    On the host those that are; on a GPU all. The caller weighs each with `mask` at these indices.
    """
    if on_host(mask):
        return np.nonzero(mask)
    indices = array_module(mask).indices(mask.shape).reshape(mask.ndim, mask.size)
    return tuple(indices[axis] for axis in range(mask.ndim))


def picked(mask):
    """What picks the entries of a boolean vector that can be true: as `candidates`, but on a GPU,
    where it is all of them, a slice, which costs no copy."""
    return np.flatnonzero(mask) if on_host(mask) else slice(None)


def sum_at(index, size, values=None):
    """Vector of `size`: the sum of the values at each index, float64; without them its count.

    index: whole numbers from 0 to size - 1. On a GPU the order of a sum is not fixed, and so isn't
    the last bit of a sum of three values or more.
    """
    if on_host(index):
        sums = np.bincount(index, values, minlength=size)
        return sums if values is None else sums.astype(np.float64, copy=False)  # int64 if all empty
    xp = array_module(index)
    # CuPy adds to 32-bit integers and to floats, not to 64-bit integers.
    sums = xp.zeros(size, np.int32 if values is None else np.float64)
    xp.add.at(sums, index, xp.ones(index.shape, sums.dtype) if values is None else values)
    return sums


def diagonal(matrix):
    """A view of the diagonal of a contiguous m x n array, m <= n, that can be written to."""
    return matrix.reshape(-1)[:: matrix.shape[1] + 1]


def row_products(one, other):
    """The sum of one * other along all axes but the first: n float64, of arrays of one shape.

    CuPy's einsum would copy float32 arrays to float64; its sum converts while it adds.
    """
    if on_host(one):
        axes = "ijk"[: one.ndim]
        return np.einsum(f"{axes},{axes}->i", one, other, dtype=np.float64)
    return (one * other).sum(axis=tuple(range(1, one.ndim)), dtype=np.float64)


def vector(values, like):
    """float64 vector of numbers or scalars that lie where `like` does."""
    if on_host(like):
        return np.array(values, np.float64)
    entries = array_module(like).empty(len(values))
    for place, value in enumerate(values):
        entries[place] = value
    return entries
