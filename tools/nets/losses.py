"""The losses of one net: the tables' values, or those that a user gave instead."""

from dataclasses import dataclass

from .tables import LOSSES, Loss, Strength

WEIGHT_OPTIONS = {
    name: loss.weight_option or f"--{name.replace('_', '-')}-weight"
    for name, loss in LOSSES.items()
}
SCALE_OPTION = "--metric-scale"


@dataclass(frozen=True)
class NetLoss:
    """A tables.Loss with the values of one net.

    weight      loss_weight, lambda of Eq. (2) for GLM
    parameters  {name: value} of param_str
    note        comment lines: where the values come from
    """

    row: Loss
    weight: float
    parameters: dict
    note: tuple


def net_losses(labels, *, strengths=None, weights=None, scale=None, given=None):
    """{name: NetLoss} of every loss of the tables.

    labels     tables.Labels
    strengths  {name of a loss: tables.Strength} of the network
    weights    {name of a loss: loss_weight} instead of the tables'
    scale      length of the normalized features, for the losses that have one
    given      {name of a loss: parameters}, instead of or besides the tables' and `scale`
    """
    strengths, weights, given = strengths or {}, weights or {}, given or {}
    found = {}
    for name, row in LOSSES.items():
        own = strengths.get(name, Strength(()))
        parameters = row.parameters(labels)
        for length in (own.scale, scale):
            if length is not None and "normalize" in parameters:
                parameters["scale"] = length
        parameters |= given.get(name, {})
        if not parameters.get("normalize", True) and parameters["scale"] == 1:
            del parameters["scale"]  # which would say nothing of raw features
        weight, weight_note = row.weight, row.weight_note
        if own.weight is not None:
            weight, weight_note = own.weight, own.note
        if name in weights:
            weight, weight_note = weights[name], (f"loss_weight: {WEIGHT_OPTIONS[name]}.",)
        found[name] = NetLoss(row, weight, parameters, (*row.note(parameters), *weight_note))
    return found
