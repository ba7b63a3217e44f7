"""BilinearPoolingLayer: the pooling of a bilinear CNN as a Caffe layer (maths: bilinear.py)."""

import math

import caffe

from python_layers import bilinear
from python_layers.blobs import blobs_of_mode
from python_layers.parameters import boolean, parse

PARAMETERS = {
    "signed_sqrt": boolean(True),
    "l2_normalize": boolean(True),
}


class BilinearPoolingLayer(caffe.Layer):
    """Bilinear pooling: the products of all pairs of channels, summed over the positions.

        z = sum_l a_l b_l^T,   y = sign(z) sqrt(|z|),   top = y / |y|

    T.-Y. Lin, A. RoyChowdhury, S. Maji, "Bilinear CNN models for fine-grained visual recognition",
    ICCV 2015. A mean over the positions, instead of their sum, is the same after l2_normalize.

        layer {
          name: "bilinear" type: "Python"
          bottom: "conv5_3" top: "bilinear"
          python_param { module: "python_layers.bilinear_pooling" layer: "BilinearPoolingLayer" }
        }

    Bottoms
      0     feature map, n x c1 x h x w; VGG's conv5_3 after ReLU in the paper's [D, D].
      1     optional: feature map of the second network, n x c2 x h x w, the same n, h and w.
            Without it the first is multiplied by itself, as by two networks that share all
            weights, in less time than with the same bottom given twice.
    Tops
      0     descriptors, n x (c1 * c2); channel i of bottom 0 and j of bottom 1 are at i * c2 + j.
            VGG's are 512 * 512 = 262144, 1 MiB a sample.

    Parameters (param_str, JSON; an unknown name is an error)
      signed_sqrt      true      signed square root, as in the paper: limits the weight of channels
                                 that are active at many positions at once.
      l2_normalize     true      length 1 per sample, as in the paper: makes the descriptor
                                 independent of the number of positions and of the features' scale.

    Backward is exact except for |z| < 1e-8, where the derivative of the square root, infinite at 0,
    is taken at 1e-8. With l2_normalize a descriptor of zero stays zero and has no gradient. The
    layer has no blobs, keeps its own copy of the descriptors (later layers may work in place on the
    top), and is not a loss: give it no loss_weight.
    Raises ValueError, in one sentence, for wrong parameters, a wrong number of bottoms or tops,
    bottoms that are not feature maps or do not fit each other, and products of features with nan or
    inf or longer than pairwise.LONGEST. If Caffe runs on a GPU and CuPy is installed, everything is
    computed in the blobs' device memory; values are not checked there: nan and inf are passed on.
    """

    def setup(self, bottom, top):
        name = type(self).__name__
        if not 1 <= len(bottom) <= 2:
            raise ValueError(f"{name} takes one feature map or two, not {len(bottom)} bottoms")
        if len(top) != 1:
            raise ValueError(f"{name} has one top, the descriptors, not {len(top)}")
        self.arguments = parse(self.param_str, PARAMETERS, name)
        self.arrays = blobs_of_mode()

    def reshape(self, bottom, top):
        name = type(self).__name__
        shapes = [tuple(bottom[i].shape) for i in range(len(bottom))]
        for i, shape in enumerate(shapes):
            if len(shape) != 4:
                raise ValueError(
                    f"{name}: bottom {i} is {_text(shape)}; it must be a feature map, n x c x h x w"
                )
        if len({(n, *positions) for n, _, *positions in shapes}) > 1:
            raise ValueError(
                f"{name}: bottom 0 is {_text(shapes[0])} and bottom 1 is "
                f"{_text(shapes[1])}; both need the same n, h and w, since features "
                "at the same position are multiplied"
            )
        top[0].reshape(shapes[0][0], shapes[0][1] * shapes[-1][1])

    def forward(self, bottom, top):
        with self.arrays.queue:
            try:
                self.pooled = bilinear.forward(self._maps(bottom), **self.arguments)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}: {error}") from None
            descriptors = self.arrays.data(top[0])
            descriptors[...] = self.pooled.descriptors.reshape(descriptors.shape)

    def backward(self, top, propagate_down, bottom):
        with self.arrays.queue:
            diff = self.arrays.diff(top[0]).reshape(self.pooled.descriptors.shape)
            gradients = self.pooled.gradients(self._maps(bottom), diff, propagate_down)
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    of_map = self.arrays.diff(bottom[i])
                    of_map[...] = gradient.reshape(of_map.shape)

    def _maps(self, bottom):
        """The bottoms' data as n x c x positions, without a copy."""
        arrays = [self.arrays.data(bottom[i]) for i in range(len(bottom))]
        return [array.reshape(*array.shape[:2], math.prod(array.shape[2:])) for array in arrays]


def _text(shape):
    return " x ".join(map(str, shape))
