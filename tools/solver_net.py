"""The net that a solver tests, reduced to what scoring images needs: data, labels and the classifiers' scores."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from data_prep.cli import UserError
from tools import files
from tools.nets import head, rules


@dataclass(frozen=True)
class ScoringNet:
    """What to run on which data.

    net      caffe_pb2.NetParameter without stages: Data layers `data` and `label`, and all the heads depend on
    heads    {level, 0 = fine: name of its classifier and of the blob of its scores}
    stages   the solver's, e.g. ("csm", "skip", "glm")
    images, labels  paths of the two LMDBs, their folder is the data set's
    batch    images per forward
    """
    net: object
    heads: dict
    stages: tuple
    images: Path
    labels: Path
    batch: int


def _read_text(path, message, what):
    """Parse a prototxt into a protobuf message; UserError says where it is no `what`."""
    try:
        return text_format.Parse(files.existing(path, what).read_text(encoding="utf-8"), message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no {what}: {error}") from None


def read_solver(path):
    """caffe_pb2.SolverParameter of a file."""
    from caffe.proto import caffe_pb2
    solver = _read_text(path, caffe_pb2.SolverParameter(), "solver")
    if not solver.net:
        raise UserError(f"solver {path} names no net: it needs a line `net: \"....prototxt\"`")
    return solver


def newest_snapshot(solver):
    """Path of the solver's caffemodel with the highest iteration."""
    prefix = Path(solver.snapshot_prefix)
    numbered = [(int(number), path) for path in prefix.parent.glob(f"{prefix.name}_iter_*.caffemodel")
                if (number := path.stem.rpartition("_")[2]).isdigit()]
    if not numbered:
        raise UserError(f"there is no snapshot {prefix}_iter_*.caffemodel yet: train first, or name --weights")
    return max(numbered)[1]


def scoring_net(solver, split, batch):
    """ScoringNet of a solver's own test state, on the images of `split` ("test" or "train"), `batch` at a time."""
    import caffe
    from caffe.proto import caffe_pb2
    train_val = _read_text(solver.net, caffe_pb2.NetParameter(), "net (paths are relative to the repository root)")
    stages = tuple(solver.test_state[0].stage) if solver.test_state else ()
    tested = rules.select(train_val, caffe.TEST, stages)
    sources = {layer.top[0]: layer.data_param for layer in tested.layer if layer.type == "Data"}
    if not {"data", "label"} <= set(sources):
        raise UserError(f"net {solver.net} has no test Data layers with the tops `data` and `label`")
    names = {layer.name for layer in tested.layer}
    heads = {level - 1: head.scores(level) for level in range(1, 10) if head.scores(level) in names}
    if 0 not in heads:
        raise UserError(f"net {solver.net} has no classifier {head.scores(1)}")
    for param in sources.values():
        source = Path(param.source)
        param.source = str(source.parent / f"{split}_{source.name.partition('_')[2]}")
        param.batch_size = batch
        if not (Path(param.source) / "data.mdb").is_file():
            raise UserError(f"{param.source} is not there: make the data set with data_prep/build_lmdb.py, "
                            "from the repository root")
    kept = rules.needed_for(tested, [*heads.values(), "data", "label"])
    del tested.layer[:]
    tested.layer.extend(kept)
    for layer in tested.layer:
        del layer.include[:]  # all of them are chosen already
    return ScoringNet(tested, heads, stages, Path(sources["data"].source), Path(sources["label"].source), batch)


def _keys_and(path, read):
    """Keys of an LMDB in its order, and `read` of each value. Unlocked: LMDBs are written once, then only read."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        with transaction.cursor() as cursor:
            pairs = [(key.decode(), read(value)) for key, value in cursor]
    if not pairs:
        raise UserError(f"{path} is empty: build it again with data_prep/build_lmdb.py")
    return [key for key, _ in pairs], [value for _, value in pairs]


def read_labels(scoring):
    """Keys (N) and labels (int64, N x h, 0-based, fine first) of the data, in the order in which Caffe reads it.

    Raises UserError unless both LMDBs have the same keys.
    """
    from caffe.proto import caffe_pb2
    keys, labels = _keys_and(scoring.labels, lambda value: caffe_pb2.Datum.FromString(value).float_data)
    if _keys_and(scoring.images, lambda value: None)[0] != keys:
        raise UserError(f"{scoring.images} and {scoring.labels} have different records: build them again with "
                        "data_prep/build_lmdb.py")
    return keys, np.array(labels, dtype=np.int64)


def _shapes(path):
    """{layer: [shape of each blob]} of a caffemodel; a blob of the format before 2015 has 4 dimensions."""
    from caffe.proto import caffe_pb2
    try:
        model = caffe_pb2.NetParameter.FromString(files.existing(path, "caffemodel").read_bytes())
    except DecodeError:
        raise UserError(f"{path} is no caffemodel, or was cut short: a snapshot ends in .caffemodel (solver states "
                        "and HDF5 snapshots are not read)") from None
    return {layer.name: [list(blob.shape.dim) if blob.HasField("shape") else
                         [blob.num, blob.channels, blob.height, blob.width] for blob in layer.blobs]
            for layer in [*model.layer, *model.layers]}


def _same(have, need):
    """Whether two shapes agree; the old format pads with ones in front."""
    return have == need or (len(have) == 4 and have == [1] * (4 - len(need)) + need)


def use_gpu(number):
    """Select a GPU. Caffe aborts the whole process if it can't, so another process tries first."""
    trial = [sys.executable, "-c", f"import caffe; caffe.set_mode_gpu(); caffe.set_device({number:d})"]
    if subprocess.run(trial, capture_output=True).returncode:
        raise UserError(f"GPU {number} can't be used: there is none of that number, or this Caffe was built for the "
                        "CPU only; leave out --gpu")
    import caffe
    caffe.set_mode_gpu()
    caffe.set_device(number)


def load(scoring, weights):
    """caffe.Net with the weights, in the mode that is set.

    Raises UserError if a layer of the net is not in the caffemodel or has other shapes there: Caffe would leave the
    one at random values, and abort at the other.
    """
    import caffe
    have = _shapes(weights)
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text_format.MessageToString(scoring.net))
        file.flush()
        net = caffe.Net(file.name, caffe.TEST)
    missing = [name for name in net.params if not have.get(name)]
    if missing:
        hint = ": these weights come from another variant of the net" if set(missing) <= set(
            scoring.heads.values()) else ""
        raise UserError(f"{weights} has no weights for {', '.join(missing[:4])}{' ...' if missing[4:] else ''}{hint}; "
                        "evaluate them with the solver that they were trained with")
    for name, blobs in net.params.items():
        need = [list(blob.shape) for blob in blobs]
        if len(need) != len(have[name]) or not all(map(_same, have[name], need)):
            raise UserError(f"{weights} doesn't fit the net: {name} has the shapes {have[name]} there and {need} here "
                            "(another data set, or another network?)")
    net.copy_from(str(weights))
    return net
