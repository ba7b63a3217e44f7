"""tools/evaluate.py on each split of a data set, and on LMDBs with damaged records."""

import lmdb
import programs
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import assert_error

TRUE = [0, 1, 2, 3, 4, 5]


@pytest.fixture
def folder(tmp_path):
    tiny.data_set(tmp_path / "data", TRUE, TRUE)
    return tmp_path


def evaluate(folder, *options):
    """The finished command, which ran in the folder."""
    solver = tiny.solver(folder, folder / "data", ("csm",))
    weights = tiny.weights(folder / "weights.caffemodel", 3)
    command = ("tools/evaluate.py", "--solver", solver, "--weights", weights, *options)
    return programs.run(*command, cwd=folder)


@pytest.mark.parametrize("split, stem", [("val", "tiny_csm_val"), ("train", "tiny_csm_train")])
def test_each_split(folder, split, stem):
    tiny.data_set(folder / "data", TRUE[:4], TRUE[:4], split)
    done = evaluate(folder, "--split", split)
    assert done.returncode == 0, done.stderr
    assert f"on 4 {split} images" in done.stdout
    assert (folder / f"results/{stem}.json").is_file()


def test_no_val_split(folder):
    (folder / "data/manifest.json").write_text("{}")
    assert_error(
        evaluate(folder, "--split", "val"), "has no val split: build it with --validation N"
    )


def key(transaction, number):
    """A key that is not text, in place of a record's."""
    value = transaction.pop(f"{number:08d}".encode())
    transaction.put(b"\xff\xfe", value)


def replaced(transaction, number, **values):
    datum = caffe_pb2.Datum.FromString(transaction.get(f"{number:08d}".encode()))
    for name, value in values.items():
        if name == "float_data":
            del datum.float_data[:]
            datum.float_data.extend(value)
        else:
            setattr(datum, name, value)
    transaction.put(f"{number:08d}".encode(), datum.SerializeToString())


@pytest.mark.parametrize(
    "values, says",
    [
        (None, r"has the key b'\xff\xfe'"),
        (dict(float_data=[-1, 0, 0], label=-1), "do not match the hierarchy.tsv"),
        (dict(float_data=[6, 0, 0], label=6), "do not match the hierarchy.tsv"),
        (dict(float_data=[2, 0]), "are damaged"),
        (dict(float_data=[2, float("nan"), 0]), "are damaged"),
        (dict(float_data=[2, float("inf"), 0]), "are damaged"),
        (dict(float_data=[2, 1e30, 0]), "are damaged"),
    ],
)
def test_damaged_records(folder, values, says):
    for kind in ("images", "labels"):
        with lmdb.open(str(folder / f"data/test_{kind}"), map_size=1 << 24) as env:
            with env.begin(write=True) as transaction:
                if values is None:
                    key(transaction, 2)
                elif kind == "labels" or "label" in values:
                    chosen = dict(values)
                    if kind == "images":
                        chosen.pop("float_data")
                    replaced(transaction, 2, **chosen)
    assert_error(evaluate(folder), says)
