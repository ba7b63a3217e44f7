"""Names the values of the metric losses' diagnostics, `<loss>_diagnostics`, in a log."""

import importlib
import re

from tools.nets import tables

# {name of each loss of features: module of its maths, which names its diagnostics}
LOSSES = {
    name: importlib.import_module(f"python_layers.{name}")
    for name, loss in tables.LOSSES.items()
    if tables.FEATURE in loss.reads
}
SUFFIX = "_diagnostics"
DEEPEST = 20  # most levels of a tree that are tried

# What a value is, by its name without a level's number; all others are distances.
KINDS = {
    "active": "share active",
    "skipped": "share skipped",
    "triplets": "triplets",
    "classes": "classes",
    "intrinsic_pairs": "pairs",
    "penalty_pairs": "pairs",
    "gradient_norm": "gradient into the features",
    "center_length": "length of the centers",
}
DISTANCE = "distance"


def _entries(loss, count):
    """Names of the `count` values of a loss's diagnostics; None if it has another number."""
    if loss not in LOSSES:
        return None
    found = (LOSSES[loss].diagnostic_names(levels) for levels in range(1, DEEPEST + 1))
    return next((names for names in found if len(names) == count), None)


def named(outputs):
    """{output: (loss, entry)} of the outputs of a log that are diagnostics, in their order.

    outputs: names as in caffe_log.Log: glm_diagnostics, glm_diagnostics[1], glm_diagnostics[2] ...
    A top whose number of values does not match the loss is ignored.
    """
    tops = {}
    for output in outputs:
        top = output.partition("[")[0]
        if top.endswith(SUFFIX):
            tops.setdefault(top, []).append(output)
    found = {}
    for top, values in tops.items():
        loss = top.removesuffix(SUFFIX)
        if entries := _entries(loss, len(values)):
            found.update((value, (loss, entry)) for value, entry in zip(values, entries))
    return found


def kind(entry):
    """The kind of an entry; entries of one kind share a panel."""
    return KINDS.get(re.sub(r"_\d+$", "", entry), DISTANCE)
