"""ContrastiveLossLayer: the contrastive loss as a Caffe layer (maths: contrastive.py)."""

from python_layers import contrastive
from python_layers.metric_loss import MetricLossLayer
from python_layers.parameters import boolean, choice, non_negative_number


class ContrastiveLossLayer(MetricLossLayer):
    """Contrastive loss over all pairs of a batch.

        L = 1/(2P) sum_{i<j} { d_ij^2             where y_i = y_j
                             { [m - d_ij]_+^2     where not,          d_ij = |x_i - x_j|

    with P = n (n - 1) / 2 pairs. Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an
    Invariant Mapping, CVPR 2006, Eq. (4), as Caffe's built-in ContrastiveLoss (legacy_version:
    false) computes it for a list of P pairs; that layer needs a net of two branches and pairs made
    beforehand, this one a batch and its labels.

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
            second `loss_weight: 0`, since Caffe wants one weight per top.

    Parameters (param_str, JSON; a name that is not here is an error)
      margin           1         m, a distance (not squared); 1 is Caffe's default.
      normalize        false     L2-normalise the features inside the loss, d is then in [0, 2]. Off
                                 as in the source; but raw features of a fine-tuned network lie tens
                                 apart, where a margin of one keeps no pair apart and the loss only
                                 pulls: there, set it.
      average          "pairs"   the equation above. "kinds" averages the pairs of one class and
                                 those of different classes each by itself and adds the two: with
                                 many classes in a batch only one pair in hundreds is of one class.

    Backward multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero.
    A pair of different classes at the same point, where the hinge has no derivative, has none.
    Without a `loss_weight` line Caffe takes no Python layer for a loss, and nothing is learnt here.
    Raises ValueError, in one sentence, for wrong parameters, labels that are no whole numbers or
    not one per sample, and features with nan or inf. On a GPU values are not checked:
    MetricLossLayer.
    """

    MAX_LEVELS = 1
    PARAMETERS = {
        "margin": non_negative_number(1),
        "normalize": boolean(False),
        "average": choice("pairs", "pairs", "kinds"),
    }
    forward_pass = staticmethod(contrastive.forward)
    diagnostic_names = staticmethod(contrastive.diagnostic_names)
