"""GLMLossLayer: the generalized large-margin loss as a Caffe layer (maths: glm.py)."""

import caffe

from python_layers import glm
from python_layers.memory import SampleMemory
from python_layers.metric_loss import MetricLossLayer
from python_layers.parameters import (
    Parameter,
    boolean,
    choice,
    is_integer,
    non_negative_numbers,
    parse,
    positive_integer,
)

MOST_KEPT = 16384  # their products with each other take 2 GB

PARAMETERS = {
    "k": positive_integer(1),
    "margins": non_negative_numbers(None),  # one per level, known at setup
    "within_gradient": choice("paper", "paper", "exact"),
    "normalize": boolean(False),
    "average": choice("present", "present", "all"),
    "fine_classes": positive_integer(None),
    "memory": Parameter(
        0, f"a whole number from 0 to {MOST_KEPT}", lambda v: is_integer(v) and 0 <= v <= MOST_KEPT
    ),
}


def settings(param_str, levels, layer="GLMLossLayer"):
    """Keyword arguments of glm.forward from a param_str, for so many label levels.

    layer: what messages call the giver of param_str. Raises ValueError, in one sentence.
    """
    given = parse(param_str, PARAMETERS, layer)
    margins = given["margins"] or [1] * levels
    if len(margins) != levels:
        raise ValueError(
            f'{layer}: "margins" has {len(margins)} values for {levels} label levels; '
            "give one margin per level"
        )
    if (given["average"] == "all") != (given["fine_classes"] is not None):
        raise ValueError(f'{layer}: "fine_classes" goes with "average": "all", and only with it')
    return {
        "margins": margins,
        "classes": given["fine_classes"],
        **{name: given[name] for name in ("k", "within_gradient", "normalize")},
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
      1     optional: diagnostics, 5 + 2h values in the order of glm.diagnostic_names(h). It takes
            a second `loss_weight: 0`, since Caffe wants one weight per top.

    Parameters (param_str, JSON; a name that is not here is an error)
      k                1         sample pairs that make a between-class distance, Eq. (8); the paper
                                 does not give its value.
      margins          all 1     alpha_1..alpha_h, one per level, in squared feature distance; the
                                 paper sets all to one.
      within_gradient  "paper"   Eq. (20) as printed; "exact" is the derivative of Eq. (5), larger
                                 by 1 / (1 - 1/n_c).
      normalize        false     L2-normalise the features inside the loss. Raw features of a
                                 fine-tuned network have squared distances in the hundreds, against
                                 margins of one, and training diverges.
      average          "present" mean over the classes in the batch; "all" divides by fine_classes
                                 as Eq. (14) does.
      fine_classes     -         C(1), only with "average": "all".
      memory           0         so many samples of the batches before complete the sets S_c, see
                                 below; 0: the batch alone, as in the paper.

    Memory. Where a batch holds one sample of most classes and few of their siblings, D_W is 0 and
    most constraints are skipped. With "memory": N the loss is the mean over the classes in the
    batch, as ever, but of sets S_c that the N newest samples of earlier batches complete, with the
    features that these had then. They are constants: the gradient is the batch's own. Samples enter
    after each backward pass of the TRAIN phase, once per forward pass (with iter_size, each of its
    batches); in the TEST phase the batch is alone. Keep N + batch size below the number of training
    images, or a sample meets its own past. A snapshot doesn't hold the memory: after -snapshot it
    fills anew. Where Caffe makes no backward pass (loss_weight 0) it stays empty. On a GPU, which
    leaves no pair out, a pass takes some 160 (N + n)^2 bytes: 190 MB for 1024, 2.8 GB for 4096.

    Backward multiplies by the top's diff, which carries loss_weight; the labels' gradient is zero.
    Without a `loss_weight` line Caffe takes no Python layer for a loss, and nothing is learnt here.
    Raises ValueError, in one sentence, for wrong parameters, labels that are no tree or not one per
    sample, and features with nan or inf. On a GPU values are not checked: MetricLossLayer.
    """

    forward_pass = staticmethod(glm.forward)
    diagnostic_names = staticmethod(glm.diagnostic_names)
    settings = staticmethod(settings)

    def setup(self, bottom, top):
        super().setup(bottom, top)
        capacity = parse(self.param_str, PARAMETERS, type(self).__name__)["memory"]
        self.memory = SampleMemory(capacity) if capacity and self.phase == caffe.TRAIN else None

    def extended(self, features, labels):
        if self.memory is None:
            return features, labels
        self.arguments["anchors"] = len(features)
        features, labels, self.arguments["gram"] = self.memory.behind(features, labels)
        return features, labels

    def forward(self, bottom, top):
        self.to_keep = False
        super().forward(bottom, top)
        self.to_keep = self.memory is not None and bottom[0].shape[0] > 0

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        if self.to_keep:
            with self.arrays.queue:
                self.memory.keep()
            self.to_keep = False
