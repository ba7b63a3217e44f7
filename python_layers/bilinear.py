"""Bilinear pooling of two feature maps, and its gradients: NumPy or CuPy, no Caffe.

T.-Y. Lin, A. RoyChowdhury, S. Maji, "Bilinear CNN models for fine-grained visual recognition", ICCV
2015. With the feature maps' columns a_l (c1 values) and b_l (c2 values) at the positions l,

    z = sum_l a_l b_l^T          c1 x c2
    y = sign(z) sqrt(|z|)        signed square root, of each component
    p = y / |y|                  L2 normalisation, of each sample

    dL/dy   = (g - p (p.g)) / |y|                       for g = dL/dp
    dL/dz   = dL/dy / (2 sqrt(|z|))
    dL/da_l = dL/dz b_l,  dL/db_l = (dL/dz)^T a_l      and the sum of both where a and b are one map

The paper sums over the positions, and so do we. A mean would be the same after the L2
normalisation; without it, it is the sum times 1 / positions, or 1 / sqrt(positions) behind the
square root.

The square root has an infinite derivative at 0: |z| counts as at least SMALLEST there, so that the
gradient is exact from SMALLEST up and finite below. The value itself has no guard. After ReLU the
exact zeros of z, of channels that never fire together, need none: what they pass on is 0, or goes
to components that are 0, and ReLU stops it. A sample of length 0 has no direction: p = 0, and no
gradient.

Besides the maps there are at most three arrays of the size of z at a time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, on_host, row_products
from python_layers.pairwise import inverse_lengths

# 1 / (2 sqrt(|z|)) is at most 5000 with it. The authors' code adds the same number to |z|, which
# changes the derivative everywhere.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Pooled:
    """What a forward pass leaves for the backward pass.

    descriptors: n x c1 x c2, of the maps' dtype; z, y or p.
    lengths:     n float64, |y|; None without L2 normalisation.
    signed_sqrt: whether there is a square root in them.
    """

    descriptors: Any
    lengths: Any
    signed_sqrt: bool

    def gradients(self, maps, diff, wanted=(True, True)):
        """dL/dmaps, one per map: arrays like the maps, or None where it isn't wanted.

        maps:   those of the forward pass.
        diff:   n x c1 x c2, dL/ddescriptors.
        wanted: a truth value per map.
        """
        if not any(wanted[: len(maps)]):
            return [None] * len(maps)
        products = self._of_products(diff)
        if len(maps) == 1:
            return [(products + products.transpose(0, 2, 1)) @ maps[0]]
        return [
            products @ maps[1] if wanted[0] else None,
            products.transpose(0, 2, 1) @ maps[0] if wanted[1] else None,
        ]

    def _of_products(self, diff):
        """dL/dz; may be diff itself."""
        xp, gradient, scale = array_module(diff), diff, 1
        if self.lengths is not None:
            along = row_products(self.descriptors, diff)
            gradient = self.descriptors * self._per_sample(-along)
            gradient += diff
            gradient *= self._per_sample(inverse_lengths(self.lengths))
            scale = self._per_sample(self.lengths)
        if self.signed_sqrt:
            slope = xp.abs(self.descriptors)
            slope *= scale
            xp.maximum(slope, SMALLEST**0.5, out=slope)
            slope *= 2
            gradient = xp.divide(gradient, slope, out=slope)
        return gradient

    def _per_sample(self, values):
        return values.astype(self.descriptors.dtype)[:, None, None]


def forward(maps, signed_sqrt=True, l2_normalize=True):
    """The descriptors of one batch.

    maps: one feature map, which is multiplied by itself, or two: n x c1 x positions and
          n x c2 x positions, of one dtype, float32 or float64, finite.
    Returns Pooled. Raises ValueError for nan, inf, and products too large for the dtype.
    """
    xp = array_module(maps[0])
    with np.errstate(over="ignore", invalid="ignore"):  # found below, and told as an error
        descriptors = maps[0] @ maps[-1].transpose(0, 2, 1)
        if signed_sqrt:
            root = xp.abs(descriptors)
            xp.sqrt(root, out=root)
            xp.copysign(root, descriptors, out=descriptors)
            del root
        squares = row_products(descriptors, descriptors)
    bad = np.flatnonzero(~np.isfinite(squares)) if on_host(squares) else ()
    if len(bad):
        raise ValueError(
            f"the products of the features of {len(bad)} of {len(squares)} samples "
            f"are nan or inf (first: sample {bad[0]}): training has diverged; lower "
            "base_lr or the loss_weights"
        )
    if not l2_normalize:
        return Pooled(descriptors, None, signed_sqrt)
    lengths = xp.sqrt(squares)
    descriptors *= inverse_lengths(lengths).astype(descriptors.dtype)[:, None, None]
    return Pooled(descriptors, lengths, signed_sqrt)
