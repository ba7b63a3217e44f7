"""tools/evaluate.py and tools/compare.py on a data set whose every answer is known."""

import os

import cv2
import lmdb
import numpy as np
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import assert_error, run

from tools import results, scores

# class, lit pixel: 3 of 11 wrong, of which one stays in its group (2 -> 3) and two in their half
TRUE = [0, 1, 2, 2, 3, 4, 5, 5, 0, 1, 4]
LIT = [0, 1, 3, 2, 3, 4, 5, 5, 2, 1, 0]


@pytest.fixture
def folder(tmp_path):
    tiny.data_set(tmp_path / "data", TRUE, LIT)
    return tmp_path


def evaluate(folder, stages, heads, *more):
    solver = tiny.solver(folder, folder / "data", stages)
    weights = tiny.weights(folder / f"model_iter_{heads}.caffemodel", heads)
    return run(
        "evaluate",
        "--solver",
        solver,
        "--weights",
        weights,
        "--out",
        folder / f"{solver.stem.removesuffix('_solver')}.json",
        *more,
    )


@pytest.mark.parametrize("batch", [1, 4, 11, 16])
def test_each_image_counts_once(folder, batch):
    done = run(
        "evaluate",
        "--solver",
        tiny.solver(folder, folder / "data", ("csm",)),
        "--weights",
        tiny.weights(folder / "w", 3),
        "--out",
        folder / "r.json",
        "--batch",
        batch,
    )
    assert done.returncode == 0, done.stderr
    result = results.read(folder / "r.json")
    assert result.images == len(TRUE) and result.stages == ("csm",)
    for level, right in zip(result.levels, (8, 9, 10)):
        for share in (level.head, level.from_fine) if level.level != "kind" else (level.head,):
            assert share.right == right
            assert share.top1 == pytest.approx(right / 11)
        assert level.consistency in (None, 1)
    assert result.fine.recall == {
        "kind 0": 0.5,
        "kind 1": 1,
        "kind 2": 0.5,
        "kind 3": 1,
        "kind 4": 0.5,
        "kind 5": 1,
    }
    assert result.fine.mean_class_accuracy == pytest.approx(0.75)
    assert results.Confusion(1, "kind 2", "kind 3") in result.fine.confused
    table = results.read_predictions(folder / "r.json", result)
    assert list(table.keys) == [f"{i:08d}" for i in range(len(TRUE))]
    kind, _, half = table.levels
    assert list(kind.true) == TRUE and list(kind.predicted) == LIT
    np.testing.assert_array_equal(half.from_fine, tiny.LABELS[LIT, 2])
    assert "72.73%" in done.stdout and str(folder / "r.json") in done.stdout


def test_plain_softmax_is_scored_on_coarse_levels_too(folder):
    done = evaluate(folder, (), 1)
    assert done.returncode == 0, done.stderr
    kind, group, half = results.read(folder / "tiny_sm.json").levels
    assert group.head is None and group.from_fine.right == 9
    assert half.from_fine.right == 10


def test_weights_in_the_old_format(folder):
    done = run(
        "evaluate",
        "--solver",
        tiny.solver(folder, folder / "data", ("csm",)),
        "--weights",
        tiny.weights(folder / "w", 3, old=True),
        "--out",
        folder / "r.json",
    )
    assert done.returncode == 0, done.stderr
    levels = results.read(folder / "r.json").levels
    assert [level.head.right for level in levels] == [8, 9, 10]


def test_gpu_that_is_not_there(folder):
    assert_error(evaluate(folder, (), 1, "--gpu", 99), "GPU 99 can't be used")


def test_newest_snapshot_is_the_default(folder):
    solver = tiny.solver(folder, folder / "data", ())
    assert "no snapshot" in run("evaluate", "--solver", solver).stderr
    for number in (9, 10):
        tiny.snapshot(folder, number)
    done = run("evaluate", "--solver", solver, "--out", folder / "r.json")
    assert done.returncode == 0
    assert results.read(folder / "r.json").weights.endswith("model_iter_10.caffemodel")


def test_train_split(folder):
    tiny.data_set(folder / "data", [5, 4, 3], [5, 4, 0], "train")
    assert evaluate(folder, ("csm",), 3, "--split", "train").returncode == 0
    result = results.read(folder / "tiny_csm.json")
    assert result.images == 3 and result.levels[0].head.right == 2


def shorten_labels(folder):
    tiny.data_set(folder / "other", TRUE[:-1], LIT[:-1])
    shorter, labels = (folder / name / "test_labels" / "data.mdb" for name in ("other", "data"))
    os.replace(shorter, labels)


def overwrite_record(folder):
    with lmdb.open(str(folder / "data" / "test_images"), map_size=1 << 24) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"00000003", b"\xff\xff")


def replace_image(folder):
    """A record of Caffe's whose image OpenCV refuses."""
    image = caffe_pb2.Datum(data=b"no image", encoded=True, label=TRUE[3])
    with lmdb.open(str(folder / "data" / "test_images"), map_size=1 << 24) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"00000003", image.SerializeToString())


def give_another_size(folder):
    """Images of one batch have one size, or Caffe's checks fail."""
    encoded = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    image = caffe_pb2.Datum(data=encoded, encoded=True, label=TRUE[3])
    with lmdb.open(str(folder / "data" / "test_images"), map_size=1 << 24) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"00000003", image.SerializeToString())


def set_label(folder):
    """-1 in both LMDBs: as an index it would be the last class."""
    for kind in ("images", "labels"):
        path = str(folder / "data" / f"test_{kind}")
        with lmdb.open(path, map_size=1 << 24) as env, env.begin(write=True) as transaction:
            datum = caffe_pb2.Datum.FromString(transaction.get(b"00000003"))
            datum.label = -1
            if kind == "labels":
                datum.float_data[0] = -1
            transaction.put(b"00000003", datum.SerializeToString())


def cut_labels(folder):
    os.truncate(folder / "data" / "test_labels" / "data.mdb", 8192)


def change_hierarchy(folder):
    path = folder / "data" / "hierarchy.tsv"
    path.write_text(path.read_text().replace("1\tkind 1\t0\ta", "1\tkind 1\t1\tb"))


def remove_images(folder):
    (folder / "data" / "test_images" / "data.mdb").unlink()


@pytest.mark.parametrize(
    "stages, heads, damage, says",
    [
        (("csm",), 1, None, "no weights for fc9_coarse, fc10_coarse"),
        (("csm", "skip"), 3, None, "fc9_coarse has the shapes"),
        ((), 1, shorten_labels, "different records"),
        ((), 1, overwrite_record, "record 00000003"),
        ((), 1, replace_image, "record 00000003 of"),
        ((), 1, give_another_size, "record 00000003 of"),
        ((), 1, set_label, "do not match"),
        ((), 1, cut_labels, "cut short"),
        ((), 1, change_hierarchy, "do not match"),
        ((), 1, remove_images, "test_images not found: make the data set"),
    ],
)
def test_what_does_not_fit_is_said(folder, stages, heads, damage, says):
    if damage:
        damage(folder)
    done = evaluate(folder, stages, heads)
    assert_error(done, says)
    assert not list(folder.glob("*.json"))


@pytest.mark.parametrize(
    "content, says", [(None, "not found"), (b"no weights", "not a caffemodel")]
)
def test_bad_weights(folder, content, says):
    if content:
        (folder / "w").write_bytes(content)
    solver = tiny.solver(folder, folder / "data", ())
    done = run("evaluate", "--solver", solver, "--weights", folder / "w")
    assert_error(done, says)


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('bottom: "data"', 'bottom: "nothing"', "Unknown bottom blob 'nothing' (layer 'feature'"),
        ('type: "Flatten"', 'type: "Flat"', "Unknown layer type: Flat"),
        ('bottom: "feature"', 'bottom: "feature"\n  bottom: "data"', "Check failed"),
    ],
)
def test_a_net_that_caffe_refuses(folder, old, new, says):
    solver = tiny.solver(folder, folder / "data", ())
    net = folder / "tiny_train_val.prototxt"
    assert old in net.read_text()
    net.write_text(net.read_text().replace(old, new))
    done = run("evaluate", "--solver", solver, "--weights", tiny.weights(folder / "w", 1))
    assert_error(done, f"Caffe refuses net {net}: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    "out, says", [("file/r.json", "is not a folder"), ("folder/r.json", "r.tsv is a folder")]
)
def test_a_target_that_cannot_be_written(folder, out, says):
    """Before the net runs: its answers would be lost."""
    (folder / "file").write_text("x")
    (folder / "folder/r.tsv").mkdir(parents=True)
    done = run(
        "evaluate",
        "--solver",
        tiny.solver(folder, folder / "data", ()),
        "--weights",
        tiny.weights(folder / "w", 1),
        "--out",
        folder / out,
    )
    assert_error(done, says)
    assert not (folder / out).exists()


def test_diverged_weights(folder):
    content = tiny.weights(folder / "w", 1).read_bytes()
    one = np.float32(1 / 3 / 255).tobytes()
    (folder / "w").write_bytes(content.replace(one, np.float32(np.nan).tobytes()))
    done = run(
        "evaluate",
        "--solver",
        tiny.solver(folder, folder / "data", ()),
        "--weights",
        folder / "w",
        "--out",
        folder / "r.json",
    )
    assert_error(done, "diverged")
    assert not (folder / "r.json").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "names no net"),
        ("what: 1", "is not a solver"),
        ('net: "nowhere.prototxt"', "not found"),
    ],
)
def test_bad_solver(tmp_path, text, says):
    (tmp_path / "solver.prototxt").write_text(text)
    done = run("evaluate", "--solver", tmp_path / "solver.prototxt", "--weights", "w")
    assert_error(done, says)


@pytest.mark.parametrize(
    "right, total, low, high", [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1)]
)
def test_wilson(right, total, low, high):  # the usual worked examples
    assert scores.wilson(right, total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (1, 9), (12, 5), (60, 61), (900, 1100)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    from scipy.stats import binomtest

    a = np.array([True] * only_a + [False] * only_b + [True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False])
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert scores.mcnemar(a, b) == pytest.approx(expected)
