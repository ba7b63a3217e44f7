"""SoftLabelLossLayer: soft labels from the label tree as a Caffe layer (maths: hierarchical.py)."""

from python_layers import hierarchical, label_tree
from python_layers.parameters import number
from python_layers.score_loss import FineScoreLossLayer


class SoftLabelLossLayer(FineScoreLossLayer):
    """Cross-entropy of fine scores with soft labels, larger for classes near y in the tree.

        L = - sum_i t_i log p_i,   t_i ~ e^{-beta d(y, i)}

    d is the height of the lowest common ancestor by that of the root. L. Bertinetto et al., "Making
    better mistakes: leveraging class hierarchies with deep networks", CVPR 2020.

        layer {
          name: "soft_label" type: "Python"
          bottom: "fc8_fine" bottom: "label_1" top: "soft_label_loss" loss_weight: 1
          python_param { module: "python_layers.soft_label_loss" layer: "SoftLabelLossLayer"
                         param_str: '{"hierarchy": "data/cars/hierarchy.tsv", "beta": 10}' }
        }

    Bottoms
      0     scores of the fine classes, n x C.
      1     fine labels, n values (any shape).
    Tops
      0     the loss, one value > 0: at least the entropy of the soft labels.
      1     optional: the softmax of the scores, n x C, see ScoreLossLayer.

    Parameters (param_str, JSON; an unknown name is an error)
      hierarchy        -         required: path of the data set's hierarchy.tsv.
      beta             10        decay of the labels with the distance, 0 to 700; large values are
                                 the cross-entropy. The authors try 4 to 30.

    loss_weight and errors: ScoreLossLayer, ScoreLayer.
    """

    PARAMETERS = {"hierarchy": label_tree.path_parameter(), "beta": number(10.0, 0, 700)}
    forward_pass = staticmethod(hierarchical.soft_labels)

    @staticmethod
    def prepare(given, tree, sizes):
        tree.check_sizes(sizes)
        return {"targets": hierarchical.soft_targets(tree.distances(), given["beta"])}
