"""ContrastiveLossLayer: the contrastive loss as a Caffe layer (maths: contrastive.py)."""

from python_layers import contrastive
from python_layers.metric_loss import COMMON, MetricLossLayer
from python_layers.parameters import boolean, choice, margin


class ContrastiveLossLayer(MetricLossLayer):
    """Contrastive loss over all pairs of a batch.

        L = 1/(2P) sum_{i<j} { d_ij^2             where y_i = y_j
                             { [m - d_ij]_+^2     where not,          d_ij = |x_i - x_j|

    with P = n (n - 1) / 2 pairs. Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an
    Invariant Mapping, CVPR 2006, Eq. (4), as Caffe's built-in ContrastiveLoss (legacy_version:
    false) computes it for a list of P pairs; that layer needs a net of two branches and pairs made
    in advance, this one a batch and its labels.

        layer {
          name: "contrastive" type: "Python"
          bottom: "fc7" bottom: "label_1" top: "contrastive_loss"
          loss_weight: 0.05
          python_param { module: "python_layers.contrastive_loss" layer: "ContrastiveLossLayer"
                         param_str: '{"margin": 1, "normalize": true}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d).
      1     labels, n values (any shape).
    Tops
      0     the loss, one value >= 0.
      1     optional: diagnostics, the 4 values that contrastive.diagnostic_names names. It takes a
            second `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      margin           1         m, a distance (not squared); 1 is Caffe's default.
      normalize        false     L2-normalize the features inside the loss, d is then in [0, 2]. Off
                                 as in the source. Raw features of a fine-tuned network lie tens
                                 apart, so that no pair is within a margin of one and the loss only
                                 pulls: set it for those.
      average          "pairs"   the equation above. "kinds" averages the pairs of one class and
                                 those of different classes separately and adds the two: with many
                                 classes in a batch only one pair in hundreds is of one class.
      scale            1         length of the normalized features, s: MetricLossLayer.
      memory           0         number of past samples that those of the batch are compared with:
                                 MetricLossLayer.

    The gradient of a pair of different classes at one point, where the hinge has no derivative, is
    taken as 0. loss_weight, several processes, GPUs and errors: MetricLossLayer.
    """

    MAX_LEVELS = 1
    PARAMETERS = {
        "margin": margin(1),
        "normalize": boolean(False),
        "average": choice("pairs", "pairs", "kinds"),
        **COMMON,
    }
    forward_pass = staticmethod(contrastive.forward)
    diagnostic_names = staticmethod(contrastive.diagnostic_names)
