"""Which layer of a net reads what another wrote, in each phase."""

from dataclasses import dataclass

from tools.pycaffe import TEST, TRAIN

from . import rules

PHASES = (TRAIN, TEST)


@dataclass(frozen=True)
class Node:
    """A LayerParameter and the phases, without stages, that have it."""

    layer: object
    phases: frozenset

    @property
    def source(self):
        """Does it bring data in? (A Parameter layer has no bottom either, but holds weights.)"""
        return not self.layer.bottom and self.layer.type != "Parameter"

    def writes(self, blob):
        return not self.source and blob in self.layer.top

    def in_place(self, blob):
        return blob in self.layer.top and blob in self.layer.bottom


def nodes(net):
    """Nodes of a NetParameter, in its order; layers that only stages bring in are left out."""
    found = [
        Node(layer, frozenset(phase for phase in PHASES if rules.keeps(layer, phase, ())))
        for layer in net.layer
    ]
    return [node for node in found if node.phases]


def upstream(graph, blobs, phase, stop):
    """What blobs depend on as they are before position `stop`, in one phase.

    Returns (positions of layers, names of the blobs that no layer but a source writes). Exact for
    layers in place: those that come after the reader are no part of it.
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
