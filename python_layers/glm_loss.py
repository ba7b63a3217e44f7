"""GLMLossLayer: the generalized large-margin loss as a Caffe layer (maths: glm.py)."""

from python_layers import glm
from python_layers.labels import LARGEST_LABEL
from python_layers.metric_loss import COMMON, MetricLossLayer, parse_parameters
from python_layers.parameters import boolean, choice, margins, whole_number

PARAMETERS = {
    "k": whole_number(1),
    "margins": margins(None),  # one per level, known at setup
    "within_gradient": choice("paper", "paper", "exact"),
    "normalize": boolean(False),
    "average": choice("present", "present", "all"),
    "fine_classes": whole_number(None, most=LARGEST_LABEL),
    **COMMON,
}


def settings(param_str, levels, layer="GLMLossLayer"):
    """Keyword arguments of glm.forward from a param_str, for that many label levels.

    layer: what messages call the giver of param_str. Raises ValueError, in one sentence.
    """
    return arguments_of(parse_parameters(param_str, PARAMETERS, layer), levels, layer)


def arguments_of(given, levels, layer):
    """Keyword arguments of glm.forward from values of PARAMETERS; as settings."""
    per_level = given["margins"] or [1] * levels
    if len(per_level) != levels:
        raise ValueError(
            f'{layer}: "margins" has {len(per_level)} values for {levels} label levels; '
            "give one margin per level"
        )
    if (given["average"] == "all") != (given["fine_classes"] is not None):
        raise ValueError(f'{layer}: "fine_classes" goes with "average": "all", and only with it')
    return {
        "margins": per_level,
        "classes": given["fine_classes"],
        **{name: given[name] for name in ("k", "within_gradient", "normalize", "scale")},
    }


class GLMLossLayer(MetricLossLayer):
    """Generalized large-margin loss over a label tree of any depth h >= 1.  Eqs. (3)-(33)

        layer {
          name: "glm" type: "Python"
          bottom: "fc7" bottom: "label_1" bottom: "label_2" top: "glm_loss"
          loss_weight: 0.8            # lambda of Eq. (2)
          python_param { module: "python_layers.glm_loss" layer: "GLMLossLayer"
                         param_str: '{"k": 1, "margins": [1, 1], "normalize": true}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d); the paper's are after ReLU and before dropout.
      1..h  labels, n values each (any shape), from the fine level up.
    Tops
      0     the loss, one value >= 0.
      1     optional: diagnostics, in the order of glm.diagnostic_names(h). It takes a second
            `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      k                1         number of sample pairs that make a between-class distance, Eq. (8);
                                 the paper does not give its value.
      margins          all 1     alpha_1..alpha_h, one per level, in squared feature distance; the
                                 paper sets all to one.
      within_gradient  "paper"   Eq. (20) as printed; "exact" is the derivative of Eq. (5), larger
                                 by 1 / (1 - 1/n_c).
      normalize        false     L2-normalize the features inside the loss. Raw features of a
                                 fine-tuned network have squared distances in the hundreds, against
                                 margins of one, and training diverges.
      scale            1         length of the normalized features, s: MetricLossLayer.
      average          "present" mean over the classes in the batch; "all" divides by fine_classes
                                 as Eq. (14) does.
      fine_classes     -         C(1), only with "average": "all".
      memory           0         number of past samples added to the sets S_c, see below and
                                 MetricLossLayer; 0: the batch alone, as in the paper.

    Memory. If a batch has one sample of most classes and few of their siblings, D_W is 0 and most
    constraints are skipped. With "memory": N the mean is still over the classes in the batch, but
    the sets S_c contain the N newest past samples too. On a GPU, which leaves no pair out, a pass
    takes some 160 (N + n)^2 bytes: 190 MB for 1024, 2.8 GB for 4096.

    loss_weight, several processes, GPUs and errors: MetricLossLayer.
    """

    PARAMETERS = PARAMETERS
    forward_pass = staticmethod(glm.forward)
    diagnostic_names = staticmethod(glm.diagnostic_names)

    def arguments_of(self, given, levels):
        return arguments_of(given, levels, type(self).__name__)
