"""MinMaxLossLayer: the Min-Max objective as a Caffe layer (maths: minmax.py)."""

from python_layers import minmax
from python_layers.metric_loss import COMMON, MetricLossLayer
from python_layers.parameters import boolean, choice, whole_number


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
            `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      k1               5         number of nearest neighbors in a sample's own class. A batch rarely
                                 has more than six samples of a fine class, so 5 mostly joins all.
      k2               10        number of nearest pairs between a class and the rest. Like k1, our
                                 own choice, not tuned.
      k2_per           "class"   k2 nearest pairs of each class with the rest, as in marginal Fisher
                                 analysis, which the authors' abstract follows; "sample": k2 nearest
                                 samples of other classes for each sample, as in public layers.
      normalize        true      L2-normalize the features inside the loss. The objective has no
                                 margin: if the features are unbounded it falls without limit as
                                 they grow, and training diverges. Distances of normalized
                                 features are in [0, 4], which bounds it. The paper has raw
                                 features: false, with a loss_weight small enough that the
                                 objective stays far below the classifier's loss.
      scale            1         length of the normalized features, s: MetricLossLayer. With no
                                 margin, s is the same as s^2 times the loss_weight.
      memory           0         number of past samples that those of the batch are compared with:
                                 MetricLossLayer.

    loss_weight, several processes, GPUs and errors: MetricLossLayer.
    """

    MAX_LEVELS = 1
    PARAMETERS = {
        "k1": whole_number(5),
        "k2": whole_number(10),
        "k2_per": choice("class", "class", "sample"),
        "normalize": boolean(True),
        **COMMON,
    }
    forward_pass = staticmethod(minmax.forward)
    diagnostic_names = staticmethod(minmax.diagnostic_names)
