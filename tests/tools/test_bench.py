"""The benchmarks run and report every loss at every size; times are not asserted."""

import re
from pathlib import Path

import pytest
import tiny
from commands import assert_error, run

from tools.benchmarks import counterparts
from tools.nets import tables

SIZES = ["--size", "16", "8", "--size", "24", "300"]


def losses(**environment):
    done = run("bench", "losses", "--runs", "1", *SIZES, **environment)
    assert done.returncode == 0, done.stderr
    says, *lines = done.stdout.splitlines()
    rows = [line.split() for line in lines]
    second = next(i for i, row in enumerate(rows) if row[:2] == ["samples", "classes"])
    return says, rows[1:second], rows[second + 1 :]


OF_FEATURES = {name for name, loss in tables.LOSSES.items() if tables.FEATURE in loss.reads}
ELSEWHERE = OF_FEATURES - {"gtl"}  # losses with a counterpart


def test_losses():
    says, rows, of_scores = losses(OPENBLAS_NUM_THREADS="1")
    assert [row[:2] for row in rows[:: len(OF_FEATURES)]] == [["16", "8"], ["24", "300"]]
    assert {row[3] for row in rows} == OF_FEATURES and "1 threads" in says
    assert all(float(row[6]) >= 0 for row in rows)  # a busy machine may round it down
    absent = counterparts.missing()
    assert ("no others without" in says) == bool(absent)
    assert all((row[7:] == ["-", "-"]) == (bool(absent) or row[3] == "gtl") for row in rows)
    trees = {"196-9", "100-70-30", "200-40-13"}
    assert {(row[1], row[2]) for row in of_scores} == {
        (tree, name) for tree in trees for name in set(tables.LOSSES) - OF_FEATURES
    }
    assert all(float(row[3]) >= 0 for row in of_scores)


def test_counterparts_are_there_for_every_loss():
    """Each gives a finite gradient, and the same one at each call."""
    if absent := counterparts.missing():
        pytest.skip(f"{' and '.join(absent)}, which ours are timed beside, not installed")
    import numpy as np

    rng = np.random.default_rng(0)
    features = rng.standard_normal((16, 8), np.float32)
    others = counterparts.losses_of(
        features,
        np.arange(16) % 8,
        8,
        {name: loss.parameters(tables.Labels((8,), "")) for name, loss in tables.LOSSES.items()},
    )
    assert set(others) == ELSEWHERE
    for both in others.values():
        once, again = both(), both()
        assert np.isfinite(once).all() and once.any() and np.array_equal(once, again)


def test_memory():
    """A row without memory, one smaller than a batch and one of several batches."""
    done = run(
        "bench",
        "memory",
        "--runs",
        "1",
        "--samples",
        "8",
        "--dimensions",
        "16",
        "--classes",
        "5",
        "--kept",
        "3",
        "--kept",
        "20",
    )
    assert done.returncode == 0, done.stderr
    rows = [[float(value) for value in line.split()] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [0, 3, 20] and rows[0][-1] == 1
    assert all(value > 0 for row in rows for value in (row[1], row[3], row[4]))


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--size", "16", "0"], ["--size", "a", "8"]])
def test_counts_must_be_counts(wrong):
    done = run("bench", "losses", *wrong)
    assert done.returncode == 2 and "must be a whole number of at least 1" in done.stderr


def test_step():
    """Every layer is in the table, the metric loss by its name, and the shares are of the whole."""
    done = run(
        "bench",
        "step",
        "--runs",
        "1",
        "--batch",
        "2",
        "--solver",
        "prototxt/cards_squeezenet_ours_solver.prototxt",
    )
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()[2:]]
    assert rows[-1][0] == "all"
    kinds = {kind.partition(" x ")[2]: int(kind.partition(" x ")[0]) for kind, *_ in rows[:-1]}
    assert kinds["Python glm"] == 1 and kinds["Convolution"] == 25 and kinds["SoftmaxWithLoss"] == 3
    assert sum(float(share.rstrip("%")) for *_, share in rows[:-1]) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    "solver, says",
    [
        ("nothing.prototxt", "solver nothing.prototxt not found"),
        ("prototxt/cards_squeezenet_deploy.prototxt", "is not a solver"),
    ],
)
def test_step_of_what_is_no_solver(solver, says):
    assert_error(run("bench", "step", "--solver", solver), says)


def test_step_of_a_net_without_crops(tmp_path):
    solver = tiny.solver(tmp_path, tmp_path, ("csm", "glm"))
    done = run("bench", "step", "--solver", solver)
    assert_error(done, "doesn't train on images of one crop_size")


def test_step_with_parameters_that_are_no_json(tmp_path):
    """The layer says so: finding the tree that losses read does not stumble over them."""
    name = "cards_squeezenet_train_val.prototxt"
    net = Path("prototxt", name).read_text(encoding="utf-8")
    wrong, count = re.subn(r"(\"python_layers.glm_loss\"[^}]*param_str: )'.*'", r"\1'k = 1'", net)
    assert count == 1
    (tmp_path / name).write_text(wrong, encoding="utf-8")
    solver = Path("prototxt/cards_squeezenet_ours_solver.prototxt").read_text(encoding="utf-8")
    own = tmp_path / "solver.prototxt"
    own.write_text(solver.replace(f"prototxt/{name}", str(tmp_path / name)), encoding="utf-8")
    assert_error(run("bench", "step", "--batch", "2", "--solver", own), "param_str is not JSON")


def variants(*arguments):
    return run("bench", "variants", "--runs", "1", "--batch", "2", *arguments)


def titles(table):
    return [re.split(r"\s{2,}", line)[0] for line in table.splitlines()[2:]]


def test_variants():
    """A row each, plain softmax first; a step takes time and memory."""
    chosen = ["--variant", "ours", "--variant", "sm_glm"]
    done = variants("--nets", "prototxt/cards_squeezenet", *chosen)
    assert done.returncode == 0, done.stderr
    assert titles(done.stdout) == ["SM", "OURS", "SM-GLM"]
    numbers = re.findall(r" (\d+) +[\d.]+(?: \S+)? +(\d+)\n", done.stdout + "\n")
    assert len(numbers) == 3 and all(int(number) > 0 for pair in numbers for number in pair)


def copied_solvers(folder, hierarchy):
    """Prefix of copies of two solvers whose net reads this hierarchy.tsv."""
    net = Path("prototxt/cards_squeezenet_train_val.prototxt").read_text(encoding="utf-8")
    copy = folder / "net.prototxt"
    copy.write_text(net.replace("data/cards/hierarchy.tsv", str(hierarchy)), encoding="utf-8")
    for variant in ("sm", "bgl"):
        name = f"cards_squeezenet_{variant}_solver.prototxt"
        solver = Path("prototxt", name).read_text(encoding="utf-8")
        solver = solver.replace("prototxt/cards_squeezenet_train_val.prototxt", str(copy))
        (folder / name).write_text(solver, encoding="utf-8")
    return folder / "cards_squeezenet"


def test_labels_follow_the_tree_that_a_loss_reads(tmp_path):
    """Neighboring classes have different parents in it; BGL refuses labels of another tree."""
    hierarchy = tmp_path / "hierarchy.tsv"
    rows = [f"{i}\tcard {i}\t{i % 4}\tsuit {i % 4}\t{i % 2}\tcolor {i % 2}" for i in range(52)]
    header = "card_id\tcard\tsuit_id\tsuit\tcolor_id\tcolor"
    hierarchy.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    done = variants("--nets", copied_solvers(tmp_path, hierarchy))
    assert done.returncode == 0, done.stderr
    assert titles(done.stdout) == ["SM", "BGL"]


@pytest.mark.parametrize("named, what", [([], "skipped"), (["--variant", "bgl"], "failed")])
def test_a_variant_without_its_tree(tmp_path, named, what):
    """It is skipped, unless the user names it: then it is a failure."""
    nets = copied_solvers(tmp_path, tmp_path / "nothing.tsv")
    done = variants("--nets", nets, *named)
    first, last = done.stderr.splitlines()
    assert first.startswith(f"{what}: BGL: ") and "nothing.tsv" in first
    assert done.returncode == 1 and last == f"error: {nets}: no variant was timed beside sm"


def test_variants_of_no_net():
    assert_error(variants("--nets", "nothing"), "no solver nothing_sm_solver.prototxt")


def test_predict():
    done = run("bench", "predict", "--runs", "1", "--count", "4", "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"bare net +[0-9.]+ +100%\npredict +[0-9.]+ +\d+%", done.stdout)
    done = run("bench", "predict", "--count", "3", "--batch", "2")
    assert_error(done, "no multiple of --batch 2")
