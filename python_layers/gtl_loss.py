"""GTLLossLayer: the generalized triplet loss as a Caffe layer (maths: gtl.py)."""

from python_layers import gtl, triplet
from python_layers.metric_loss import COMMON, MetricLossLayer
from python_layers.parameters import boolean, choice, margins

PARAMETERS = {
    "margins": margins(None),  # one per level, known at setup
    "mining": choice("semihard", *triplet.MINING),
    "normalize": boolean(True),
    "average": choice("mined", "mined", "active"),
    **COMMON,
}

# Margin of each link by default: FaceNet's, for features of length 1.
LINK = 0.2


class GTLLossLayer(MetricLossLayer):
    """Generalized triplet loss over a label tree of any depth h >= 1.

        E = 1/2 1/N sum [D(r, p+) - D(r, p-) + m_1 - m_2]_+
          + 1/2 1/N sum [D(r, p-) - D(r, n) + m_2]_+             for h = 2

    D_ij = |x_i - x_j|^2; p+ shares r's fine class, p- only its parent, n neither. gtl.py has it for
    any h. X. Zhang, F. Zhou, Y. Lin, S. Zhang, "Embedding label structures for fine-grained feature
    representation", CVPR 2016. Their objective is lambda_s softmax + (1 - lambda_s) E: these are
    the loss_weights.

        layer {
          name: "gtl" type: "Python"
          bottom: "fc7" bottom: "label_1" bottom: "label_2" top: "gtl_loss"
          loss_weight: 1
          python_param { module: "python_layers.gtl_loss" layer: "GTLLossLayer"
                         param_str: '{"margins": [0.4, 0.2]}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d).
      1..h  labels, n values each (any shape), from the fine level up.
    Tops
      0     the loss, one value >= 0.
      1     optional: diagnostics, in the order of gtl.diagnostic_names(h). It takes a second
            `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      margins          0.2 h, ..., 0.2
                                 m_1 > ... > m_h > 0, one per level, in squared feature distance.
                                 The paper's values are not established; by default each link has
                                 the margin 0.2 of FaceNet.
      mining           "semihard"
                                 triplets of each link: for each pair of an anchor and a positive
                                 the nearest negative farther than the positive, or else the
                                 farthest. "hard", "all": see TripletLossLayer.
      normalize        true      scale the features to length `scale` inside the loss, as the paper.
      scale            1         that length, s: MetricLossLayer.
      average          "mined"   N counts the triplets of a link; "active": those above 0.
      memory           0         number of past samples that those of the batch are compared with:
                                 MetricLossLayer.

    loss_weight, several processes, GPUs and errors: MetricLossLayer.
    """

    PARAMETERS = PARAMETERS
    forward_pass = staticmethod(gtl.forward)
    diagnostic_names = staticmethod(gtl.diagnostic_names)

    def arguments_of(self, given, levels):
        chosen = given["margins"] or [LINK * (levels - j) for j in range(levels)]
        try:
            gtl.check_margins(chosen, levels)
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: "margins": {error}') from None
        return {**given, "margins": chosen}
