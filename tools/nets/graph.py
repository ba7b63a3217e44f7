"""The graph of a net: which layer reads the blobs of which other layer, in each phase."""

from dataclasses import dataclass

from data_prep.common.errors import UserError
from tools.pycaffe import TEST, TRAIN, caffe

from . import rules

PHASES = (TRAIN, TEST)
MOST_STAGES = 8  # of a net that are tried
# Layers of Caffe that may have no bottom. All but Parameter, which holds weights, bring data in.
WITHOUT_BOTTOM = {
    "Data",
    "DummyData",
    "HDF5Data",
    "ImageData",
    "Input",
    "MemoryData",
    "Parameter",
    "Python",
    "WindowData",
}


@dataclass(frozen=True)
class Node:
    """A LayerParameter and the phases that have it."""

    layer: object
    phases: frozenset

    @property
    def source(self):
        """Whether the layer brings data into the net."""
        return _is_source(self.layer)

    def writes(self, blob):
        return not self.source and blob in self.layer.top

    def in_place(self, blob):
        return blob in self.layer.top and blob in self.layer.bottom


def _is_source(layer):
    return not layer.bottom and layer.type != "Parameter"


def nodes(net):
    """Nodes of a NetParameter, in its order.

    Sources of any stage are kept, other layers where `stages` has them. Raises UserError where a
    layer has no bottom that needs one.
    """
    chosen = stages(net)
    known = set(caffe.layer_type_list())
    found = []
    for layer in net.layer:
        source = _is_source(layer)
        if not layer.bottom and layer.type in known - WITHOUT_BOTTOM:
            raise UserError(f"layer {layer.name} ({layer.type}) has no bottom")
        phases = frozenset(
            phase
            for phase in PHASES
            if rules.keeps(layer, phase, chosen[phase]) or (source and _may_have(layer, phase))
        )
        if phases:
            found.append(Node(layer, phases))
    return found


def stages(net):
    """{phase: stages} under which the layers of a NetParameter find what they read.

    No stages where those of Caffe's default state do; else the stages of one rule of the net, such
    as ("train",) and ("val",) of a net written for DIGITS.
    """
    named = dict.fromkeys(
        tuple(rule.stage)
        for layer in net.layer
        for rule in (*layer.include, *layer.exclude)
        if rule.stage
    )
    chosen = {}
    for phase in PHASES:
        ordered = sorted(named, key=lambda names: ("train" in "".join(names)) != (phase == TRAIN))
        chosen[phase] = min(
            [(), *ordered[:MOST_STAGES]], key=lambda names: len(_missing(net, phase, names))
        )
    return chosen


def _missing(net, phase, names):
    """Blobs that layers of one state read and none before them writes."""
    written, missing = set(), set()
    for layer in net.layer:
        if rules.keeps(layer, phase, names):
            missing |= set(layer.bottom) - written
            written |= set(layer.top)
    return missing


def _may_have(layer, phase):
    """Whether some choice of stages, at level 0, includes the layer in the phase."""
    if layer.include:
        return any(_may_meet(rule, phase) for rule in layer.include)
    return not any(
        _may_meet(rule, phase) and not (rule.stage or rule.not_stage) for rule in layer.exclude
    )


def _may_meet(rule, phase):
    return (
        (not rule.HasField("phase") or rule.phase == phase)
        and rule.min_level <= 0
        and (rule.max_level >= 0 or not rule.HasField("max_level"))
    )


def upstream(graph, blobs, phase, stop):
    """What blobs depend on as they are before position `stop`, in one phase.

    Returns (positions of layers, names of the blobs that no layer but a source writes). Exact for
    layers in place: those that come after the reader are not part of it.
    """
    wanted, positions = set(blobs), set()
    for position in reversed(range(stop)):
        node = graph[position]
        if phase in node.phases and not node.source and wanted & set(node.layer.top):
            positions.add(position)
            wanted -= set(node.layer.top) - set(node.layer.bottom)
            wanted |= set(node.layer.bottom)
    return positions, wanted


def downstream(graph, position, phase):
    """Positions of the layers that depend on the layer at `position`, in one phase."""
    reached, positions = set(graph[position].layer.top), []
    for later in range(position + 1, len(graph)):
        node = graph[later]
        if phase in node.phases and reached & set(node.layer.bottom):
            positions.append(later)
            reached |= set(node.layer.top)
    return positions
