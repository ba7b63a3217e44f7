"""BGLLossLayer: the bipartite-graph label loss as a Caffe layer (maths: bgl.py)."""

from python_layers import bgl, label_tree
from python_layers.parameters import Parameter, boolean
from python_layers.score_loss import MarginalsLayer, ScoreLossLayer

PATH = label_tree.path_parameter()

PARAMETERS = {
    "hierarchy": PATH,
    "levels": label_tree.levels_parameter(),
    "attributes": Parameter(
        None,
        "a list of paths of files",
        lambda v: isinstance(v, list) and 0 < len(v) < 100 and all(map(PATH.valid, v)),
    ),
    "attribute_labels": boolean(True),
}


def graphs(given, tree, sizes):
    """{"graphs": a graph per score bottom but the first}: of the tree's levels, then of the tables.

    Raises ValueError if the scores are not those of the fine level, of one or more levels above it
    in their order, and of the tables.
    """
    tables = given["attributes"] or []
    levels = len(sizes) - len(tables)
    if not 1 <= levels <= len(tree.levels):
        raise ValueError(
            f"{len(sizes)} score bottoms do not fit: the fine classes, up to {len(tree.levels) - 1}"
            f" coarse levels of {tree.path} and {len(tables)} tables of attributes have one each"
        )
    tree.check_sizes(sizes[:levels])
    found = [tree.ancestors[:, level] for level in range(1, levels)]
    for path, size in zip(tables, sizes[levels:]):
        graph = label_tree.read_graph(path, sizes[0])
        if graph.shape[1] != size:
            raise ValueError(f"the net has {size} scores for {graph.shape[1]} attributes of {path}")
        found.append(graph)
    return {"graphs": found}


class BGLLossLayer(ScoreLossLayer):
    """Bipartite-graph label loss of fine scores with coarse levels and attributes.

        p(i, c_1..c_m) ~ e^{f_i} prod_j G^j_{i c_j} e^{f^j_{c_j}}
        L = -log p_y - sum_j log p^j_{c_j}

    F. Zhou, Y. Lin, "Fine-grained image classification by exploring bipartite-graph labels", CVPR
    2016; bgl.py has the gradient. In a test the class is arg max p_i, top 1.

        layer {
          name: "bgl" type: "Python"
          bottom: "fc8_fine" bottom: "fc9_coarse" bottom: "label_1" bottom: "label_2"
          top: "bgl_loss" top: "bgl_probabilities" loss_weight: 1 loss_weight: 0
          python_param { module: "python_layers.bgl_loss" layer: "BGLLossLayer"
                         param_str: '{"hierarchy": "data/cars/hierarchy.tsv"}' }
        }

    Bottoms
      0..m      scores: of the fine classes, of the levels above them in their order, of the
                attributes of each table; n x C, n x C_1 .. n x C_m.
      m+1..2m+1 labels of the same, n values each (any shape); with "attribute_labels": false only
                those of the levels.
    Tops
      0     the loss, one value >= 0.
      1     optional: p_i, n x C, see ScoreLossLayer.

    Parameters (param_str, JSON; an unknown name is an error)
      hierarchy        -         required: path of the data set's hierarchy.tsv.
      levels           the first ones
                                 names of the levels that the scores are of, from the fine level up.
      attributes       -         list of paths of class x attribute tables (label_tree.read_graph),
                                 a further graph each.
      attribute_labels true      false: which attribute a sample shows is not known, so that they
                                 have no label bottoms and no term in the loss (bgl.py).

    loss_weight and errors: ScoreLossLayer, ScoreLayer.
    """

    PARAMETERS = PARAMETERS
    bottoms = "scores of m + 1 label sets and their m + 1 labels"
    forward_pass = staticmethod(bgl.forward)
    prepare = staticmethod(graphs)

    @staticmethod
    def scores_in(bottoms, given):
        without = 0 if given["attribute_labels"] else len(given["attributes"] or [])
        both = bottoms + without  # as many labels as scores
        return both // 2 if both > 2 * without and both % 2 == 0 else None


class BGLMarginalsLayer(MarginalsLayer):
    """log p_i, log p^1_c ..: bottoms 0..m and parameters of BGLLossLayer; see MarginalsLayer."""

    PARAMETERS = PARAMETERS
    bottoms = "scores of one or more label sets"
    log_marginals = staticmethod(bgl.log_marginals)
    prepare = staticmethod(graphs)

    @staticmethod
    def scores_in(bottoms, given):
        return bottoms or None
