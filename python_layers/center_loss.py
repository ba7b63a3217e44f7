"""CenterLossLayer: the center loss as a Caffe layer with its own centers (maths: center.py)."""

import math

import caffe

from python_layers import center
from python_layers.labels import LARGEST_LABEL
from python_layers.metric_loss import MetricLossLayer
from python_layers.parameters import MOST, number, whole_number

PARAMETERS = {
    "num_classes": whole_number(None, most=LARGEST_LABEL),
    "alpha": number(0.5, 0, 1),
}


class CenterLossLayer(MetricLossLayer):
    """Center loss: half the mean squared distance of the features to their class's center.

        L = 1/(2m) sum_i |x_i - c_{y_i}|^2
        c_j <- c_j - alpha sum_i [y_i = j] (c_j - x_i) / (1 + n_j),  n_j samples of class j

    Y. Wen, K. Zhang, Z. Li, Y. Qiao, "A discriminative feature learning approach for deep face
    recognition", ECCV 2016, Eqs. (2)-(4). Eq. (2) has the sum, not the mean, over the m samples of
    a batch; the mean is that of the authors' Caffe layer. For the sum, multiply loss_weight by m.

        layer {
          name: "center" type: "Python"
          bottom: "fc7" bottom: "label_1" top: "center_loss"
          loss_weight: 0.003
          param { lr_mult: 0 decay_mult: 0 }   # the layer moves the centers, the solver must not
          python_param { module: "python_layers.center_loss" layer: "CenterLossLayer"
                         param_str: '{"num_classes": 200}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d).
      1     labels, n values (any shape) from 0 to num_classes - 1.
    Tops
      0     the loss, one value >= 0.
      1     optional: diagnostics, in the order of center.diagnostic_names. It takes a second
            `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      num_classes      -         required: number of classes of the data set; each has a center.
      alpha            0.5       rate of the centers, 0 to 1, the paper's; 0 keeps them fixed.

    Centers. They are the layer's parameter blob, num_classes x d, so that Caffe saves them in each
    snapshot, restores them, and shares them with the test net. They start at zero, which needs no
    seed. They move after each backward pass of the TRAIN phase, once per forward pass; never in
    TEST, nor by a forward pass alone. With iter_size k they move k times per iteration, once for
    each of its batches: Eq. (4) is about a batch. Where Caffe makes no backward pass (loss_weight
    0, or nothing to learn below and lr_mult 0), they stay.

    The layer moves them itself and leaves the blob's diff at zero. A solver that applied Delta_j
    would multiply it by a learning rate that decays, and add momentum, weight decay and gradient
    clipping: alpha would mean something else in each solver. Without the `param` line the solver
    sees a gradient of zero, and only shrinks the centers by weight decay.

    alpha does not depend on loss_weight. There is no "memory": the centers are the loss's memory.
    loss_weight, several processes, GPUs and errors: MetricLossLayer. Labels above num_classes - 1
    and features whose size is not that of the centers are errors too.
    """

    MAX_LEVELS = 1
    PARAMETERS = PARAMETERS
    diagnostic_names = staticmethod(center.diagnostic_names)

    def arguments_of(self, given, levels):
        if given["num_classes"] is None:
            raise ValueError(
                f'{type(self).__name__}: param_str needs "num_classes", the number of classes of '
                'the data set, such as {"num_classes": 200}'
            )
        return given

    def setup(self, bottom, top):
        super().setup(bottom, top)
        classes, dimensions = self.arguments["num_classes"], _dimensions(bottom[0])
        if classes * dimensions > MOST:  # Caffe would abort
            raise ValueError(
                f"{type(self).__name__}: {classes} centers of {dimensions} dimensions are more "
                f"than the {MOST} numbers of Caffe's largest blob; correct num_classes"
            )
        if not len(self.blobs):  # Caffe has made them if the layer's own parameter holds blobs
            self.blobs.add_blob(classes, dimensions)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        wanted = self.arguments["num_classes"], _dimensions(bottom[0])
        if tuple(self.blobs[0].shape) != wanted:
            raise ValueError(
                f"{type(self).__name__}: the centers are "
                f"{' x '.join(map(str, self.blobs[0].shape))}, but num_classes x "
                f"dimensions of the features is {wanted[0]} x {wanted[1]}"
            )

    def forward(self, bottom, top):
        self.to_move = None  # a batch without samples leaves nothing
        super().forward(bottom, top)

    def forward_pass(self, features, labels, num_classes, alpha):
        self.to_move = center.forward(features, labels, self.arrays.data(self.blobs[0]))
        return self.to_move

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        if self.phase == caffe.TRAIN and self.to_move is not None:
            with self.arrays.queue:
                self.to_move.move(self.arrays.data(self.blobs[0]), self.arguments["alpha"])
            self.to_move = None


def _dimensions(features):
    return math.prod(list(features.shape)[1:])
