"""TripletLossLayer: the triplet loss, with mining inside the batch, as a Caffe layer (maths:
triplet.py)."""

from python_layers import triplet
from python_layers.metric_loss import COMMON, MetricLossLayer
from python_layers.parameters import boolean, choice, margin


class TripletLossLayer(MetricLossLayer):
    """Triplet loss over triplets mined inside a batch.

        L = 1/N sum over mined (a, p, n) of [D_ap - D_an + m]_+,   y_a = y_p, y_a != y_n

    with D_ij = |x_i - x_j|^2. Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face
    Recognition and Clustering, CVPR 2015, Eqs. (1)-(4).

        layer {
          name: "triplet" type: "Python"
          bottom: "fc7" bottom: "label_1" top: "triplet_loss"
          loss_weight: 1
          python_param { module: "python_layers.triplet_loss" layer: "TripletLossLayer"
                         param_str: '{"mining": "semihard"}' }
        }

    Bottoms
      0     features, n x ... (flattened to n x d).
      1     labels, n values (any shape).
    Tops
      0     the loss, one value >= 0. A batch without two samples of one class and a third of
            another has no triplet, loss 0 and gradient 0.
      1     optional: diagnostics, the 5 values that triplet.diagnostic_names names. It takes a
            second `loss_weight: 0`, since Caffe expects one weight per top.

    Parameters (param_str, JSON; an unknown name is an error)
      margin           0.2       m, in squared distance; FaceNet's, for features of length 1.
      mining           "semihard"
                                 for each pair (a, p) the nearest n farther than p: FaceNet's
                                 choice, since the hardest n can make all features collapse into one
                                 point early in training. Where all n are nearer than p, the
                                 farthest of them. "hard": for each a, the farthest p and the
                                 nearest n. "all": every triplet.
      normalize        true      L2-normalize the features inside the loss, D is then in [0, 4]:
                                 FaceNet's features lie on the unit sphere, and m is made for these.
      average          "active"  N counts the triplets whose hinge is above 0, so that the gradient
                                 doesn't fade while most triplets are satisfied (Hermans, Beyer,
                                 Leibe: In Defense of the Triplet Loss for Person Re-Identification,
                                 2017); the loss then stays near m, and progress shows in the
                                 diagnostics' active share. "mined": N counts all mined ones.
                                 FaceNet sums: its step size depends on the make-up of the batch.
      scale            1         length of the normalized features, s: MetricLossLayer.
      memory           0         number of past samples that those of the batch are compared with:
                                 MetricLossLayer.

    The choice of the triplets, and N, count as constants in the gradient. loss_weight, several
    processes, GPUs and errors: MetricLossLayer.
    """

    MAX_LEVELS = 1
    PARAMETERS = {
        "margin": margin(0.2),
        "mining": choice("semihard", *triplet.MINING),
        "normalize": boolean(True),
        "average": choice("active", "active", "mined"),
        **COMMON,
    }
    forward_pass = staticmethod(triplet.forward)
    diagnostic_names = staticmethod(triplet.diagnostic_names)
