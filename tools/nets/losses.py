"""The metric losses of one net: the tables' values, or those that a user gave instead."""

from dataclasses import dataclass

from .tables import BASELINES, GLM_WEIGHT, glm_parameters

GLM = "glm"
NAMES = (GLM, *BASELINES)  # of losses, their layers and their stages
WEIGHT_OPTIONS = {GLM: "--lambda", **{name: f"--{name}-weight" for name in BASELINES}}
SCALE_OPTION = "--metric-scale"


@dataclass(frozen=True)
class MetricLoss:
    """One loss as its layer gets it.

    layer        class in python_layers/<name>_loss.py
    weight       loss_weight, lambda of Eq. (2) for GLM
    parameters   {name: value} of param_str
    all_levels   whether it reads the labels of all levels, or those of the fine one
    note         comment lines: where the values come from
    param        ParamSpecs of the layer's own blobs
    """

    name: str
    layer: str
    weight: float
    parameters: dict
    all_levels: bool
    note: tuple
    param: tuple = ()


def metric_losses(sizes, *, weights=None, scale=None, glm=None):
    """{name: MetricLoss} of every metric loss.

    sizes    classes per level, fine to coarse
    weights  {name of a loss: loss_weight} instead of the tables'
    scale    length of the normalized features, for the losses that have one (default: 1)
    glm      parameters of the large-margin loss, instead of or besides the tables' and `scale`
    """
    weights = weights or {}
    length = {} if scale is None else {"scale": scale}
    parameters = {**glm_parameters(len(sizes)), **length, **(glm or {})}
    found = [
        MetricLoss(
            GLM,
            "GLMLossLayer",
            weights.get(GLM, GLM_WEIGHT),
            parameters,
            True,
            (
                "Eqs. (3)-(18); loss_weight is lambda of Eq. (2); one margin per level.",
                *_weight_note(GLM, weights, ()),
                'within_gradient: Eq. (20) as printed; "exact" is the derivative of Eq. (5).',
                _length_note(parameters),
            ),
        )
    ]
    for loss in BASELINES.values():
        parameters = loss.parameters(sizes[0])
        scaled = length if "normalize" in parameters else {}
        found.append(
            MetricLoss(
                loss.name,
                loss.layer,
                weights.get(loss.name, loss.weight),
                {**parameters, **scaled},
                False,
                (
                    *loss.note,
                    *_weight_note(loss.name, weights, loss.weight_note),
                    *(f"{SCALE_OPTION}: features of length {s:g} inside." for s in scaled.values()),
                ),
                loss.param,
            )
        )
    return {loss.name: loss for loss in found}


def _weight_note(name, weights, note):
    return (f"loss_weight: {WEIGHT_OPTIONS[name]}.",) if name in weights else note


def _length_note(parameters):
    if not parameters["normalize"]:
        return "normalize: the features as they are; they grow, and with them the loss."
    length = parameters.get("scale", 1)
    return (
        f"normalize: features of length {length:g} inside the loss; raw ones grow and it diverges."
    )
