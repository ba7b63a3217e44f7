"""Checks whether a solver's net fits the data that it reads: classes and image counts.

All facts come from the current files: the net's classifiers, the label tree beside the LMDBs, the
number of records in each LMDB. Nothing is run.
"""

from dataclasses import dataclass
from pathlib import Path

import lmdb

from data_prep import manifest
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from tools.nets import rules
from tools.pycaffe import TEST, TRAIN, caffe_pb2

BY_LABEL = ("SoftmaxWithLoss", "Accuracy", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss")


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    item    "classes", "images", "sizes" or "test_iter"
    text    one sentence
    serious whether training would stop or learn from wrong data; if not, it may be intended
    """

    item: str
    text: str
    serious: bool


@dataclass(frozen=True)
class _State:
    """A net as one of a solver's states has it.

    layers  LayerParameters of that state
    name    for messages
    test_iter  batches per test; None in training
    """

    layers: list
    name: str
    test_iter: int | None = None

    def sources(self):
        """{top: data_param} of the Data layers; a label that comes with the images has its own."""
        return {
            top: layer.data_param
            for layer in self.layers
            if layer.type == "Data"
            for top in layer.top
        }


def findings(solver, net):
    """Findings about a SolverParameter and the NetParameter that it names."""
    found = []
    for state in _states(solver, net):
        found += _classes(state)
        found += _images(state)
        found += _sizes(state)
    return list(dict.fromkeys(found))


def _states(solver, net):
    training = rules.select(net, TRAIN, solver.train_state.stage)
    yield _State(list(training.layer), "training")
    states = solver.test_state or [caffe_pb2.NetState()]
    for state, iterations in zip(states, solver.test_iter):
        tested = rules.select(net, TEST, state.stage)
        yield _State(list(tested.layer), "test", iterations)


def _classes(state):
    """Findings about classifiers whose number of outputs is not that of their level's classes."""
    sources = state.sources()
    levels = _label_levels(state.layers, sources)
    outputs = {
        layer.top[0]: layer.inner_product_param.num_output
        for layer in state.layers
        if layer.type == "InnerProduct" and layer.top
    }
    for layer in state.layers:
        if layer.type not in BY_LABEL or len(layer.bottom) < 2:
            continue
        scores, label = layer.bottom[:2]
        if scores not in outputs or label not in levels:
            continue
        top, level = levels[label]
        folder = Path(sources[top].source).parent
        tree = _tree(folder)
        if tree is None:
            continue
        if level >= len(tree.sizes):
            text = f"{label} is read by {layer.name}, and {folder} has {len(tree.sizes)} levels"
        elif outputs[scores] != tree.sizes[level]:
            text = (
                f"{scores} has {outputs[scores]} outputs, and {folder} has {tree.sizes[level]} "
                f"classes of the level {tree.levels[level]}"
            )
        else:
            continue
        yield Finding("classes", f"{text}: write the net for this data set", True)


def _label_levels(layers, sources):
    """{blob: (top of the Data layer that it comes from, its level, 0 = fine)} of all labels."""
    levels = {top: (top, 0) for top in sources}
    for layer in layers:
        if layer.type == "Slice" and layer.bottom[0] in sources:
            levels.update((top, (layer.bottom[0], i)) for i, top in enumerate(layer.top))
    return levels


def _tree(folder):
    """Hierarchy of a data set's folder; None where the folder has none, or none that is right."""
    try:
        return Hierarchy.read(folder / "hierarchy.tsv")
    except UserError:  # data_prep/verify_lmdb.py says what is wrong with it
        return None


def _images(state):
    """Findings about numbers of records: LMDBs that are read side by side, and test_iter."""
    counts = {}
    for param in state.sources().values():
        try:
            counts[param.source] = _records(param.source)
        except lmdb.Error as error:
            yield Finding("LMDB", f"{param.source} can't be read ({error}): build it again", True)
            return
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{source} has {count}" for source, count in counts.items())
        yield Finding(
            "images", f"{text} records, but the net reads them in step: build them again", True
        )
    elif counts and state.test_iter is not None:
        (count,) = set(counts.values())
        batch = next(iter(state.sources().values())).batch_size
        read = state.test_iter * batch
        if not 0 <= read - count < batch:  # the last batch may wrap around to the first image
            effect = (
                f"the last {count - read} are not counted"
                if read < count
                else f"the first {read - count} are counted twice"
                if read < 2 * count
                else "images are counted several times"
            )
            yield Finding(
                "test_iter",
                f"{state.test_iter} x {batch} per batch = {read} of {count} test images: {effect} "
                "in the accuracies that `caffe train` prints (tools/evaluate.py counts each once)",
                False,
            )


def _sizes(state):
    """Findings about layers without a crop that read images of several sizes."""
    for layer in state.layers:
        source = Path(layer.data_param.source)
        if layer.type != "Data" or source.name != "train_images" or layer.transform_param.crop_size:
            continue
        try:
            scales = manifest.read(source.parent).options.scales
        except UserError:  # data_prep/verify_lmdb.py says what is wrong with it
            continue
        if scales:
            text = (
                f"{source} has images of {', '.join(map(str, scales))} pixels, and layer "
                f"{layer.name} has no crop_size: add one, or build the data set without --scales"
            )
            yield Finding("sizes", text, True)


def _records(path):
    with lmdb.open(str(path), readonly=True, lock=False, max_dbs=0) as env:
        return env.stat()["entries"]
