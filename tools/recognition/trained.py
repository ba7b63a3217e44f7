"""A trained net as its solver describes it: what prediction, export and features start from."""

from dataclasses import dataclass
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from tools import snapshots, solver_net
from tools.nets import deploy, diagram, head, rules
from tools.recognition import preprocessing as pixels
from tools.recognition.preprocessing import Preprocessing


@dataclass(frozen=True)
class Trained:
    """A net without data layers, stages and losses, and what belongs to it.

    solver    path of the solver
    net       caffe_pb2.NetParameter: Input layer `data`, N x 3 x height x width; classifiers;
              their probabilities
    file      path of the prototxt that the net was derived from
    weights   path of the caffemodel
    outputs   {level, 0 = fine: blob of its probabilities, N x classes}
    scores    {level: blob of its scores before softmax}
    feature   blob that the large-margin loss reads; None: unknown
    data      folder of the data set
    stages    of the solver's test state
    """

    solver: Path
    net: object
    file: str
    weights: Path
    outputs: dict
    scores: dict
    feature: str | None
    hierarchy: Hierarchy
    preprocessing: Preprocessing
    data: Path
    stages: tuple


def read(path, weights=None):
    """The Trained of a solver file; needs no LMDB, but the data set's manifest and hierarchy.

    weights: path of a caffemodel (default: that of the solver's newest whole snapshot). Raises
    UserError.
    """
    from tools.pycaffe import TEST

    solver = solver_net.read_solver(path)
    weights = Path(weights) if weights else snapshots.newest_model(solver)
    prepared, folder = pixels.of_solver(solver)
    net = solver_net.read_net(solver)
    stages = tuple(solver.test_state[0].stage) if solver.test_state else ()
    scores = {
        number - 1: name
        for number, name in head.classified(rules.select(net, TEST, stages)).items()
    }
    hierarchy = Hierarchy.read(folder / "hierarchy.tsv")
    _check_levels(solver, scores, hierarchy, folder)
    outputs = {}
    for position, (level, name) in enumerate(sorted(scores.items()), 1):
        if name != head.scores(position):
            raise UserError(f"net {solver.net} has no classifier {head.scores(position)}")
        outputs[level] = f"prob_{head.tag(position)}"
    height, width = prepared.crop
    if height != width:
        raise UserError(f"net {solver.net} reads images of {height} x {width}: not square")
    return Trained(
        solver=Path(path),
        net=deploy.deploy(net, stages, len(scores), (3, height, width)),
        file=solver.net,
        weights=weights,
        outputs=outputs,
        scores=scores,
        feature=feature_of(net, stages),
        hierarchy=hierarchy,
        preprocessing=prepared,
        data=folder,
        stages=stages,
    )


def _check_levels(solver, scores, hierarchy, folder):
    if 0 not in scores:
        raise UserError(f"net {solver.net} has no classifier {head.scores(1)} of the fine level")
    if max(scores) >= len(hierarchy.levels):
        raise UserError(
            f"net {solver.net} classifies level {max(scores) + 1}, the hierarchy of {folder} has "
            f"{len(hierarchy.levels)}: the net is for another data set"
        )


def feature_of(net, stages):
    """Name of the blob that the large-margin loss of a net file reads: the classifiers' feature
    before dropout. None if the file has no such head.
    """
    try:
        return diagram.diagram(net, stages).feature
    except ValueError:
        return None
