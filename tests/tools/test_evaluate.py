"""tools/evaluate.py and tools/compare.py on a data set whose every answer is known."""

import os

import lmdb
import numpy as np
import pytest
import tiny
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
    assert result["images"] == len(TRUE) and result["stages"] == ["csm"]
    for level, right in zip(result["levels"], (8, 9, 10)):
        for answer in ("head", "from_fine") if level["level"] != "kind" else ("head",):
            assert level[answer]["right"] == right
            assert level[answer]["top1"] == pytest.approx(right / 11)
        assert level.get("consistency", 1) == 1
    assert result["fine"]["recall"] == {
        "kind 0": 0.5,
        "kind 1": 1,
        "kind 2": 0.5,
        "kind 3": 1,
        "kind 4": 0.5,
        "kind 5": 1,
    }
    assert result["fine"]["mean_class_accuracy"] == pytest.approx(0.75)
    assert {"images": 1, "true": "kind 2", "predicted": "kind 3"} in result["fine"]["confused"]
    table = results.read_predictions(folder / "r.json")
    assert list(table["key"]) == [f"{i:08d}" for i in range(len(TRUE))]
    assert list(table["kind"]) == TRUE and list(table["kind_predicted"]) == LIT
    np.testing.assert_array_equal(table["half_from_fine"], tiny.LABELS[LIT, 2])
    assert "72.73%" in done.stdout and str(folder / "r.json") in done.stdout


def test_plain_softmax_is_scored_on_coarse_levels_too(folder):
    done = evaluate(folder, (), 1)
    assert done.returncode == 0, done.stderr
    kind, group, half = results.read(folder / "tiny_sm.json")["levels"]
    assert "head" not in group and group["from_fine"]["right"] == 9
    assert half["from_fine"]["right"] == 10


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
    assert [level["head"]["right"] for level in results.read(folder / "r.json")["levels"]] == [
        8,
        9,
        10,
    ]


def test_gpu_that_is_not_there(folder):
    assert_error(evaluate(folder, (), 1, "--gpu", 99), "GPU 99 can't be used")


def test_newest_snapshot_is_the_default(folder):
    solver = tiny.solver(folder, folder / "data", ())
    assert "no snapshot" in run("evaluate", "--solver", solver).stderr
    for number in (9, 10):
        tiny.weights(folder / f"model_iter_{number}.caffemodel", 1)
    done = run("evaluate", "--solver", solver, "--out", folder / "r.json")
    assert done.returncode == 0
    assert results.read(folder / "r.json")["weights"].endswith("model_iter_10.caffemodel")


def test_train_split(folder):
    tiny.data_set(folder / "data", [5, 4, 3], [5, 4, 0], "train")
    assert evaluate(folder, ("csm",), 3, "--split", "train").returncode == 0
    result = results.read(folder / "tiny_csm.json")
    assert result["images"] == 3 and result["levels"][0]["head"]["right"] == 2


def shorten_labels(folder):
    tiny.data_set(folder / "other", TRUE[:-1], LIT[:-1])
    shorter, labels = (folder / name / "test_labels" / "data.mdb" for name in ("other", "data"))
    os.replace(shorter, labels)


def overwrite_record(folder):
    with lmdb.open(str(folder / "data" / "test_images"), map_size=1 << 24) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"00000003", b"\xff\xff")


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
        ((), 1, cut_labels, "cut short"),
        ((), 1, change_hierarchy, "don't follow"),
        ((), 1, remove_images, "test_images is not there: make the data set"),
    ],
)
def test_what_does_not_fit_is_said(folder, stages, heads, damage, says):
    if damage:
        damage(folder)
    done = evaluate(folder, stages, heads)
    assert_error(done, says)
    assert not list(folder.glob("*.json"))


@pytest.mark.parametrize("content, says", [(None, "not found"), (b"no weights", "no caffemodel")])
def test_bad_weights(folder, content, says):
    if content:
        (folder / "w").write_bytes(content)
    solver = tiny.solver(folder, folder / "data", ())
    done = run("evaluate", "--solver", solver, "--weights", folder / "w")
    assert_error(done, says)


def test_a_target_that_cannot_be_written(folder):
    (folder / "file").write_text("x")
    done = run(
        "evaluate",
        "--solver",
        tiny.solver(folder, folder / "data", ()),
        "--weights",
        tiny.weights(folder / "w", 1),
        "--out",
        folder / "file" / "r.json",
    )
    assert_error(done, "is not a folder")


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
