"""MinMaxLossLayer: the Min-Max objective as a Caffe layer (maths: minmax.py)."""

from python_layers import minmax
from python_layers.metric_loss import MetricLossLayer
from python_layers.parameters import boolean, positive_integer


class MinMaxLossLayer(MetricLossLayer):
    """Min-Max objective: near samples of a class closer, near pairs between classes farther apart.

        L = 1/n sum_{i,j} (GI_ij - GP_ij) |x_i - x_j|^2

    GI joins each sample to its k1 nearest of the same class, GP each class to the rest by their k2
    nearest pairs; minmax.py has the definitions in full. W. Shi, Y. Gong, J. Wang, "Improving CNN
    performance with min-max objective", IJCAI 2016. The division by the batch size n is ours: it
    makes the weight of a sample independent of n.

        layer {
          name: "minmax" type: "Python"
          bottom: "fc7" bottom: "label_1" top: "minmax_loss"
          loss_weight: 0.01
          python_param { module: "python_layers.minmax_loss" layer: "MinMaxLossLayer"
                         param_str: '{"k1": 5, "k2": 10}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d).
      1     labels, n values (any shape).
    Tops
      0     the objective, one value of either sign.
      1     optional: diagnostics, in the order of minmax.diagnostic_names. It takes a second
            `loss_weight: 0`, since Caffe wants one weight per top.

    Parameters (param_str, JSON; a name that is not here is an error)
      k1               5         nearest neighbours in the own class. A batch rarely has more than
                                 six samples of a fine-grained class, so this mostly joins all.
      k2               10        nearest pairs between a class and the rest. A choice of ours, as
                                 k1 is: neither is tuned.
      normalize        true      L2-normalise the features inside the loss. The objective has no
                                 margin: without bound on the features it falls for ever as
                                 they grow, and training diverges. Distances of normalised
                                 features are in [0, 4], which bounds it. The paper has raw
                                 features: for those say false, with a loss_weight so small that the
                                 objective stays far below the classifier's loss.

    Backward multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero.
    Without a `loss_weight` line Caffe takes no Python layer for a loss, and nothing is learnt here.
    Raises ValueError, in one sentence, for wrong parameters, labels that are no whole numbers or
    not one per sample, and features with nan or inf. On a GPU values are not checked:
    MetricLossLayer.
    """

    MAX_LEVELS = 1
    PARAMETERS = {
        "k1": positive_integer(5),
        "k2": positive_integer(10),
        "normalize": boolean(True),
    }
    forward_pass = staticmethod(minmax.forward)
    diagnostic_names = staticmethod(minmax.diagnostic_names)
