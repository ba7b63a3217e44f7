"""Bilinear pooling of two feature maps, and its gradients: NumPy or CuPy, no Caffe.

T.-Y. Lin, A. RoyChowdhury, S. Maji, "Bilinear CNN models for fine-grained visual recognition", ICCV
2015. With the feature maps' columns a_l (c1 values) and b_l (c2 values) at the positions l,

    z = sum_l a_l b_l^T          c1 x c2
    y = sign(z) sqrt(|z|)        signed square root, of each component
    p = y / |y|                  L2 normalization, of each sample

    dL/dy   = (g - p (p.g)) / |y|                       for g = dL/dp
    dL/dz   = dL/dy / (2 sqrt(|z|))
    dL/da_l = dL/dz b_l,  dL/db_l = (dL/dz)^T a_l      and the sum of both where a and b are one map

The sum over the positions is the paper's. A mean would give the same result after the L2
normalization; without it, the sum times 1 / positions, or 1 / sqrt(positions) after the root.

The square root has an infinite derivative at 0. In the derivative |z| counts as at least SMALLEST,
so that the gradient is exact from SMALLEST up and finite below; the value itself has no guard. The
exact zeros of z after ReLU, from channels that are never active together, do no harm: their
gradient is 0, or goes to components that are 0, where ReLU stops it. A sample of length 0 has no
direction: p = 0, with gradient 0.

Besides the maps, at most three arrays of the size of z exist at a time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, row_products
from python_layers.pairwise import check_features, inverse_lengths

# 1 / (2 sqrt(|z|)) is at most 5000 with it. The authors' code adds the same number to |z|, which
# changes the derivative everywhere.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Pooled:
    """The results of a forward pass that the backward pass needs.

    descriptors: n x c1 x c2, of the maps' dtype; z, y or p.
    lengths:     n float64, |y|; None without L2 normalization.
    signed_sqrt: whether they are signed square roots.
    """

    descriptors: Any
    lengths: Any
    signed_sqrt: bool

    def gradients(self, maps, diff, wanted=(True, True)):
        """dL/dmaps, one per map: arrays like the maps, or None where it is not wanted.

        maps:   those of the forward pass.
        diff:   n x c1 x c2, dL/ddescriptors.
        wanted: one truth value per map.
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
    Returns Pooled. Raises ValueError for products with nan or inf and for those longer than
    pairwise.LONGEST.
    """
    xp = array_module(maps[0])
    with np.errstate(over="ignore", invalid="ignore"):  # check_features reports these
        descriptors = maps[0] @ maps[-1].transpose(0, 2, 1)
        if signed_sqrt:
            root = xp.abs(descriptors)
            xp.sqrt(root, out=root)
            xp.copysign(root, descriptors, out=descriptors)
            del root
        squares = row_products(descriptors, descriptors)
    check_features(squares, "products of the features")
    if not l2_normalize:
        return Pooled(descriptors, None, signed_sqrt)
    lengths = xp.sqrt(squares)
    descriptors *= inverse_lengths(lengths).astype(descriptors.dtype)[:, None, None]
    return Pooled(descriptors, lengths, signed_sqrt)
