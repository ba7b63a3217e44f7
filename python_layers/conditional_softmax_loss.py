"""ConditionalSoftmaxLossLayer: a softmax among siblings at each level, as a Caffe layer (maths:
hierarchical.py)."""

from python_layers import hierarchical, label_tree
from python_layers.score_loss import MarginalsLayer, ScoreLossLayer

PARAMETERS = {"hierarchy": label_tree.path_parameter(), "levels": label_tree.levels_parameter()}


def tree_of(given, tree, sizes):
    """Arrays of the tree; ValueError unless there are scores of each of its levels."""
    if len(sizes) != len(tree.levels):
        raise ValueError(
            f"{len(sizes)} score bottoms for the {len(tree.levels)} levels of {tree.path}; each "
            "level needs one"
        )
    tree.check_sizes(sizes)
    return {"ancestors": tree.ancestors, "parents": tree.parents(), "children": tree.children()}


class ConditionalSoftmaxLossLayer(ScoreLossLayer):
    """Conditional softmax along the label tree.

        L = - sum_l log p(y's class at level l | its parent)

    with a softmax among the children of each node. J. Redmon, A. Farhadi, "YOLO9000: better,
    faster, stronger", CVPR 2017, Section 4. In a test the class is arg max of top 1, the product of
    the conditional probabilities along each path.

        layer {
          name: "conditional_softmax" type: "Python"
          bottom: "fc8_fine" bottom: "fc9_coarse" bottom: "label_1"
          top: "conditional_softmax_loss" loss_weight: 1
          python_param { module: "python_layers.conditional_softmax_loss"
                         layer: "ConditionalSoftmaxLossLayer"
                         param_str: '{"hierarchy": "data/cars/hierarchy.tsv"}' }
        }

    Bottoms
      0..h-1 scores of the classes of each level, from the fine level up, n x C_l.
      h     fine labels, n values (any shape).
    Tops
      0     the loss, one value >= 0.
      1     optional: the probabilities of the fine classes, n x C, see ScoreLossLayer.

    Parameters (param_str, JSON; an unknown name is an error)
      hierarchy        -         required: path of the data set's hierarchy.tsv.
      levels           all       names of the levels that the scores are of, from the fine level up.

    loss_weight and errors: ScoreLossLayer, ScoreLayer.
    """

    PARAMETERS = PARAMETERS
    bottoms = "scores of each level and the fine labels"
    forward_pass = staticmethod(hierarchical.conditional)
    prepare = staticmethod(tree_of)

    @staticmethod
    def scores_in(bottoms, given):
        return bottoms - 1 if bottoms > 1 else None


class ConditionalMarginalsLayer(MarginalsLayer):
    """Logarithms of the probabilities of the classes of each level, products along the path from
    the coarsest level: bottoms 0..h-1 and parameters of ConditionalSoftmaxLossLayer; see
    MarginalsLayer."""

    PARAMETERS = PARAMETERS
    bottoms = "scores of each level"
    log_marginals = staticmethod(hierarchical.conditional_marginals)
    prepare = staticmethod(tree_of)

    @staticmethod
    def scores_in(bottoms, given):
        return bottoms or None
