"""HXELossLayer: the hierarchical cross-entropy as a Caffe layer (maths: hierarchical.py)."""

from python_layers import hierarchical, label_tree
from python_layers.parameters import number
from python_layers.score_loss import FineScoreLossLayer


class HXELossLayer(FineScoreLossLayer):
    """Hierarchical cross-entropy of fine scores.

        L = - sum_l lambda_l log(P_l / P_{l+1}),   lambda_l = e^{-alpha l}

    P_l is the probability of y's ancestor at level l, 0 for y itself, 1 at the root. L. Bertinetto
    et al., "Making better mistakes: leveraging class hierarchies with deep networks", CVPR 2020.

        layer {
          name: "hxe" type: "Python"
          bottom: "fc8_fine" bottom: "label_1" top: "hxe_loss" loss_weight: 1
          python_param { module: "python_layers.hxe_loss" layer: "HXELossLayer"
                         param_str: '{"hierarchy": "data/cars/hierarchy.tsv", "alpha": 0.1}' }
        }

    Bottoms
      0     scores of the fine classes, n x C.
      1     fine labels, n values (any shape).
    Tops
      0     the loss, one value >= 0.
      1     optional: the softmax of the scores, n x C, see ScoreLossLayer.

    Parameters (param_str, JSON; an unknown name is an error)
      hierarchy        -         required: path of the data set's hierarchy.tsv.
      alpha            0.1       decay of the weights with the height, 0 to 100; 0 is the
                                 cross-entropy. The authors try 0.1 to 0.6.

    loss_weight and errors: ScoreLossLayer, ScoreLayer.
    """

    PARAMETERS = {"hierarchy": label_tree.path_parameter(), "alpha": number(0.1, 0, 100)}
    forward_pass = staticmethod(hierarchical.cross_entropy)

    @staticmethod
    def prepare(given, tree, sizes):
        tree.check_sizes(sizes)
        return {"ancestors": tree.ancestors, "alpha": given["alpha"]}
