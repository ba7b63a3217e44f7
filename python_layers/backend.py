"""NumPy on the host, CuPy on a GPU: lets the same maths code run on both.

A GPU works through a queue of kernels while Python runs ahead of it. Whenever Python needs a value,
it has to wait for the queue and copy the value to the host: for float(), bool() and int(), for
boolean indexing, and in nonzero, unique and bincount, whose result sizes depend on values. The
maths therefore takes its shapes from the batch alone. Where the host selects the few relevant
entries, a GPU, on which more entries cost next to nothing, keeps all and weights them with a mask.
(Before CuPy 14, sorts wait too, cupy/cupy pull request 9497: slower, with the same result.)

Values on a GPU are not checked: features with nan or inf make the loss nan or inf, and labels are
used as given.
"""

import sys

import numpy as np


def on_host(array):
    return isinstance(array, (np.ndarray, np.generic))


def array_module(array):
    """numpy or cupy, whichever the array belongs to. CuPy is never imported here."""
    return np if on_host(array) else sys.modules["cupy"]


def active_indices(mask):
    """Indices of the entries of a boolean array that can be true, one array per axis, as nonzero.

    On the host these are the true entries; on a GPU all entries, which the caller weights with
    `mask` at these indices.
    """
    if on_host(mask):
        return np.nonzero(mask)
    indices = array_module(mask).indices(mask.shape).reshape(mask.ndim, mask.size)
    return tuple(indices[axis] for axis in range(mask.ndim))


def sum_at(index, size, values=None):
    """Vector of `size`: the sum of the values at each index, float64; without values the count.

    index: whole numbers from 0 to size - 1. On a GPU the order of summation is not fixed, so that
    the last bit of a sum of three values or more may vary.
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
    """float64 vector of numbers or scalars, on the host or on the GPU as `like` is."""
    if on_host(like):
        return np.array(values, np.float64)
    entries = array_module(like).empty(len(values))
    for place, value in enumerate(values):
        entries[place] = value
    return entries
