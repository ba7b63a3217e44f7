"""The net that a solver tests, reduced to what scoring needs: data, labels, class scores."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import lmdb_io
from data_prep.common import files, prototxt
from data_prep.common.errors import UserError
from tools import caffe_errors, caffemodel, snapshots
from tools.inputs import build_command
from tools.nets import head, rules, tables

LARGEST_LABEL = 1 << 24  # float32 represents all whole numbers up to this one


@dataclass(frozen=True)
class ScoringNet:
    """A net for scoring, and its data.

    file     path of the net's prototxt
    net      caffe_pb2.NetParameter without stages: Data layers `data` and `label`, and all that
             the heads depend on
    heads    {level, 0 = fine: name of its classifier and of the blob of its scores}
    stages   the solver's, e.g. ("csm", "skip", "glm")
    images, labels  paths of the two LMDBs; their folder is the data set's
    batch    images per forward
    feature  name of the blob of the feature, before dropout, which the large-margin loss reads
    """

    file: str
    net: object
    heads: dict
    stages: tuple
    images: Path
    labels: Path
    batch: int
    feature: str


def read_solver(path):
    """caffe_pb2.SolverParameter of a file."""
    from tools.pycaffe import caffe_pb2

    solver = prototxt.read(path, caffe_pb2.SolverParameter())
    if not solver.net:
        raise UserError(f'solver {path} names no net: it needs a line `net: "....prototxt"`')
    return solver


def read_net(solver):
    """caffe_pb2.NetParameter of a solver's net file, all stages in it."""
    from tools.pycaffe import caffe_pb2

    return prototxt.read(solver.net, caffe_pb2.NetParameter())


def scoring_net(solver, split, batch):
    """ScoringNet of a solver's own test state on a split of records.SPLITS, `batch` at a time."""
    from tools.pycaffe import caffe

    train_val = read_net(solver)
    stages = tuple(solver.test_state[0].stage) if solver.test_state else ()
    tested = rules.select(train_val, caffe.TEST, stages)
    sources = {layer.top[0]: layer.data_param for layer in tested.layer if layer.type == "Data"}
    if not {"data", "label"} <= set(sources):
        raise UserError(f"net {solver.net} has no test Data layers with the tops data and label")
    heads = {number - 1: name for number, name in head.classified(tested).items()}
    if 0 not in heads:
        raise UserError(f"net {solver.net} has no classifier {head.scores(1)}")
    for param in sources.values():
        source = Path(param.source)
        source = source.parent / f"{split}_{source.name.partition('_')[2]}"
        if not (source / "data.mdb").is_file():
            if split == "val" and (source.parent / "manifest.json").is_file():
                raise UserError(
                    f"{source.parent} has no val split: build it with --validation N, which draws "
                    "one, or from a source that has one"
                )
            raise UserError(
                f"{source} not found: make the data set, from the repository root, "
                f"with {build_command(source.parent)}"
            )
        param.source, param.batch_size = str(source), batch
    kept = rules.needed_for(tested, [*heads.values(), "data", "label"])
    del tested.layer[:]
    tested.layer.extend(kept)
    for layer in tested.layer:
        del layer.include[:]  # the stages have been applied
    return ScoringNet(
        solver.net,
        tested,
        heads,
        stages,
        Path(sources["data"].source),
        Path(sources["label"].source),
        batch,
        _feature(train_val, tested, heads[0]),
    )


def _feature(train_val, tested, classifier):
    """Name of the blob that the large-margin loss of a net reads, or else its fine classifier."""
    made_by = {top: layer for layer in tested.layer for top in layer.top if top not in layer.bottom}
    for layer in train_val.layer:
        if layer.type == "Python" and layer.name == tables.GLM and layer.bottom[0] in made_by:
            return layer.bottom[0]
    name = made_by[classifier].bottom[0]
    while name in made_by and made_by[name].type == "Dropout":
        name = made_by[name].bottom[0]
    return name


def read_labels(scoring):
    """Keys (N) and labels (int64, N x h, 0-based, fine first), in the order in which Caffe reads.

    Raises UserError unless both LMDBs have the same keys and fine labels.
    """

    def read(path, content):  # not the whole Datums, since those of images take gigabytes
        return [
            (
                name := lmdb_io.key_text(key, path),
                content(lmdb_io.parse_datum(value, f"record {name} of {path}")),
            )
            for key, value in lmdb_io.items(path)
        ]

    images = read(scoring.images, lambda datum: [datum.label])
    labels = read(scoring.labels, lambda datum: list(datum.float_data))
    if not labels or images != [(key, row[:1]) for key, row in labels]:
        raise UserError(
            f"{scoring.images} and {scoring.labels} have different records: build the "
            "data set again"
        )
    keys, rows = [key for key, _ in labels], [row for _, row in labels]
    whole = len({len(row) for row in rows}) == 1
    if not whole or not (np.abs(np.array(rows)) < LARGEST_LABEL).all():  # also where one is nan
        raise UserError(f"the labels in {scoring.labels} are damaged: build the data set again")
    return keys, np.array(rows, dtype=np.int64)


def try_gpu(number, option="--gpu"):
    """Raise UserError, which names the option, if Caffe can't use the GPU.

    A separate process tries it, because a failure aborts the whole process.
    """
    trial = f"import caffe; caffe.set_mode_gpu(); caffe.set_device({number:d})"
    if subprocess.run([sys.executable, "-c", trial], capture_output=True).returncode:
        raise UserError(
            f"GPU {number} can't be used: the machine has no GPU of that number, or this Caffe "
            f"was built for the CPU only; leave out {option}"
        )


def use_gpu(number):
    """Select a GPU. Raises UserError."""
    try_gpu(number)
    from tools.pycaffe import caffe

    caffe.set_mode_gpu()
    caffe.set_device(number)


def load(scoring, weights):
    """caffe.Net of a ScoringNet with the weights, as load_net."""
    return load_net(
        scoring.net, scoring.file, weights, "evaluate it with the solver of its training"
    )


def load_net(net, file, weights, remedy):
    """caffe.Net in phase TEST with the weights, in the mode that is set.

    net     caffe_pb2.NetParameter
    file    its prototxt, for messages
    remedy  what a message advises where layers are missing in the weights

    Raises UserError if Caffe refuses the net, or if a layer of the net is missing in the weights or
    has other shapes there, since Caffe would leave it at random values.
    """
    from tools.pycaffe import caffe

    with caffe_errors.refusals(f"Caffe refuses net {file}"), prototxt.as_file(net) as path:
        net = caffe.Net(path, caffe.TEST)
    files.existing(weights, "caffemodel")
    if reason := snapshots.problem(weights):
        raise UserError(f"the weights can't be used: {reason}")
    if caffemodel.is_hdf5(weights):
        missing = _missing_in_hdf5(net, weights)
    else:
        needed = {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()}
        missing = caffemodel.compare(weights, needed, "the net")
    if missing:
        few = ", ".join(missing[:4]) + (" ..." if missing[4:] else "")
        raise UserError(f"{weights} has no weights for {few}: {remedy}")
    _copy(net, weights)
    return net


def _copy(net, weights):
    with caffe_errors.refusals(f"{weights} doesn't fit the net"):
        net.copy_from(str(weights))


def _missing_in_hdf5(net, weights):
    """Names of the layers missing in an HDF5 file: those whose values do not change on loading."""
    missing = set(net.params)
    for value in (0, 1):
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] = value
        _copy(net, weights)
        missing &= {
            name
            for name, blobs in net.params.items()
            if all((blob.data == value).all() for blob in blobs)
        }
    return [name for name in net.params if name in missing]
