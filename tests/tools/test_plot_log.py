"""tools/plot_log.py on logs as Caffe writes them: new and old dates, restarted, cut, diverged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import nets_data
import numpy as np
import pytest
import tiny
from commands import ROOT, assert_error, run

from tools import caffe_log, diagnostics, plot_log
from tools.nets import tables


def line(message, date="I20261123", file="solver.cpp:239"):
    return f"{date} 14:01:02.123456  4242 {file}] {message}\n"


def steps(start, stop, loss=lambda n: 2.0 / (n + 1), date="I20261123"):
    """A log of iterations start .. stop, one in ten displayed, one in twenty tested."""
    text = line("Starting Optimization", date)
    for n in range(start, stop, 10):
        if n % 20 == 0:
            text += line(f"Iteration {n}, Testing net (#0)", date)
            text += line(f"    Test net output #0: accuracy_fine = {n / 1000}", date)
            text += line(
                f"    Test net output #1: loss_fine = {loss(n)} (* 1 = {loss(n)} loss)", date
            )
        text += line(f"Iteration {n} (2.5 iter/s, 4s/10 iters), loss = {loss(n)}", date)
        text += line(f"    Train net output #0: glm_loss = {n} (* 0.8 = {0.8 * n} loss)", date)
        text += line("    Train net output #1: glm_shares = 0.25", date)
        text += line("    Train net output #2: glm_shares = 0.75", date)
        text += line(f"Iteration {n}, lr = 0.001", date, "sgd_solver.cpp:112")
    return text


@pytest.mark.parametrize("date", ["I20261123", "I1123"])
def test_series(tmp_path, date):
    log = tmp_path / "run.log"
    log.write_text("a warning of Python's\n" + steps(0, 50, date=date))
    done = run("plot_log", log, "--out", tmp_path / "curves.png", "--tsv", tmp_path / "curves.tsv")
    assert done.returncode == 0, done.stderr
    assert "loss 2 at iteration 0, 0.04878 at iteration 40" in done.stdout
    rows = [row.split("\t") for row in (tmp_path / "curves.tsv").read_text().splitlines()]
    assert rows[0] == ["log", "phase", "output", "iteration", "value"]
    assert ["run", "test", "accuracy_fine", "40", "0.04"] in rows
    assert ["run", "train", "glm_shares[1]", "30", "0.75"] in rows
    assert ["run", "train", "lr", "0", "0.001"] in rows
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[0] > 200 and len(np.unique(picture)) > 10


def with_diagnostics(values, loss="glm"):
    """A log of two iterations in which the loss has a second top."""
    return line("Starting Optimization") + "".join(
        line(f"Iteration {n}, loss = 1")
        + line(f"    Train net output #0: {loss}_loss = 1 (* 1 = 1)")
        + "".join(
            line(f"    Train net output #{i}: {loss}_diagnostics = {n + value}")
            for i, value in enumerate(values, 1)
        )
        for n in (0, 20)
    )


@pytest.mark.parametrize(
    "loss, levels",
    [
        *(("glm", levels) for levels in (1, 2, 3, 5)),
        *((loss, 1) for loss in ("contrastive", "triplet", "center", "minmax")),
    ],
)
def test_diagnostics_by_their_names(tmp_path, loss, levels):
    """Each value is drawn under the layer's own name for it, with nothing else but its like."""
    entries = diagnostics.LOSSES[loss].diagnostic_names(levels)
    log = tmp_path / "run.log"
    log.write_text(with_diagnostics(np.arange(len(entries)), loss))
    read = caffe_log.read(log)
    outputs = list(diagnostics.named(read.names("train")))
    assert [read.series["train", output][1].tolist() for output in outputs] == [
        [i, 20 + i] for i in range(len(entries))
    ]
    panels = [panel for panel in plot_log.panels([read]) if panel.title.startswith(f"{loss}: ")]
    drawn = {output: entry for panel in panels for output, entry in panel.outputs.items()}
    assert drawn == dict(zip(outputs[1:], entries[1:]))  # the loss has a panel of its own
    if loss == "glm":
        assert [list(panel.outputs.values()) for panel in panels] == [
            ["within", "between_min_sp", "between_max_sp", "between_min_not_sp"],
            *([f"{kind}_{j}" for j in range(1, levels + 1)] for kind in ("active", "skipped")),
        ]
    assert f"run\ttrain\t{loss}.{entries[-1]}\t20\t{20 + len(entries) - 1}" in (
        plot_log.rows([read], ["run"])
    )


@pytest.mark.parametrize("loss, count", [("glm", 2), ("mine", 4)])
def test_tops_of_that_name_which_are_no_diagnostics(tmp_path, loss, count):
    log = tmp_path / "run.log"
    log.write_text(with_diagnostics(range(count), loss))
    read = caffe_log.read(log)
    assert not diagnostics.named(read.names("train"))
    assert [panel.title for panel in plot_log.panels([read])] == ["loss", f"{loss}_loss"]
    assert f"run\ttrain\t{loss}_diagnostics[1]\t20\t21" in plot_log.rows([read], ["run"])


def test_real_training(tmp_path):
    tiny.data_set(tmp_path / "data", list(range(6)) * 2, list(range(6)) * 2, "train")
    tiny.data_set(tmp_path / "data", list(range(6)), list(range(6)), "test")
    solver = tiny.solver(tmp_path, tmp_path / "data", ("csm",))
    solver.write_text(
        solver.read_text().replace("0.01", "0.0001")
        + "max_iter: 8 display: 2 test_iter: 2 test_interval: 4 snapshot: 0 "
        "snapshot_after_train: false"
    )
    trained = subprocess.run(
        ["caffe", "train", "-solver", str(solver)],
        cwd=ROOT,
        env=os.environ | {"GLOG_minloglevel": "0", "GLOG_logtostderr": "1"},
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr[-500:]
    (tmp_path / "run.log").write_text(trained.stderr)
    log = caffe_log.read(tmp_path / "run.log")
    assert set(log.losses) == {"loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"}
    assert log.series["train", "loss"][0].tolist() == [0, 2, 4, 6, 8]
    assert log.series["test", "accuracy_fine"][0].tolist() == [0, 4, 8]
    np.testing.assert_allclose(log.series["train", "loss_fine"][1][0], np.log(6), atol=1e-4)
    assert run("plot_log", tmp_path / "run.log", "--out", tmp_path / "curves.png").returncode == 0


@pytest.fixture(scope="module")
def diagnostic_nets(tmp_path_factory):
    """A folder with a data set of noise, and the solvers that `--diagnostics` makes for it."""
    folder = tmp_path_factory.mktemp("diagnostics")
    nets_data.build(folder / "data/cards", "cards", ("card", "suit", "colour"), (6, 3, 2), 150)
    subprocess.run(
        [
            sys.executable,
            ROOT / "tools/make_prototxt.py",
            "--data",
            "data/cards",
            "--net",
            "squeezenet",
            "--out",
            "nets",
            "--train-batch",
            "8",
            "--max-iter",
            "2",
            "--diagnostics",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.parametrize(
    "variant, loss, levels",
    [("ours", "glm", 3), *((f"sm_{loss}", loss, 1) for loss in tables.RIVALS)],
)
def test_diagnostics_of_a_real_training(diagnostic_nets, variant, loss, levels):
    """From the option of make_prototxt through `caffe train` to a picture."""
    solver = diagnostic_nets / f"nets/cards_squeezenet_{variant}_solver.prototxt"
    solver.write_text(re.sub("(?m)^display: .*", "display: 1", solver.read_text()))
    log = diagnostic_nets / f"{variant}.log"
    with open(log, "w") as file:
        subprocess.run(
            ["caffe", "train", "-solver", str(solver)],
            cwd=diagnostic_nets,
            check=True,
            env=os.environ | {"GLOG_minloglevel": "0"},
            stderr=file,
        )
    series = caffe_log.read(log).series
    entries = diagnostics.named(name for phase, name in series if phase == "train")
    assert list(entries.values()) == [
        (loss, entry) for entry in diagnostics.LOSSES[loss].diagnostic_names(levels)
    ]
    values = {entry: series["train", output][1] for output, (_, entry) in entries.items()}
    assert values["loss"].tolist() == series["train", f"{loss}_loss"][1].tolist()
    assert len(values["loss"]) == 2 and all(np.isfinite(value).all() for value in values.values())
    if variant == "ours":
        assert (values["between_max_sp"] >= values["between_min_sp"]).all()
        assert all(
            0 <= share <= 1
            for name, shares in values.items()
            if "_sp" not in name and name.startswith(("active", "skipped"))
            for share in shares
        )
        done = run("plot_log", log, "--out", diagnostic_nets / "new.png")
        assert done.returncode == 0 and cv2.imread(str(diagnostic_nets / "new.png")).size


def test_restart_from_a_snapshot_is_one_curve(tmp_path):
    log = tmp_path / "run.log"
    log.write_text(steps(0, 90) + steps(40, 130, loss=lambda n: n))
    x, y = caffe_log.read(log).series["train", "loss"]
    assert x.tolist() == list(range(0, 130, 10))
    assert y[3] == 2 / 31 and y[4:].tolist() == list(range(40, 130, 10))


@pytest.mark.parametrize("cut", [1, 8, 30, 70, 130, 300])
def test_log_cut_in_the_middle(tmp_path, cut):
    log = tmp_path / "run.log"
    log.write_text(steps(0, 50)[:-cut])
    whole = caffe_log.read(log)
    assert np.isin(whole.series["train", "glm_loss"][1], [0, 10, 20, 30, 40]).all()


def test_divergence_is_said(tmp_path):
    log = tmp_path / "run.log"
    log.write_text(steps(0, 30) + steps(30, 60, loss=lambda n: "-nan"))
    done = run("plot_log", log, "--out", tmp_path / "curves.png")
    assert done.returncode == 0
    assert "diverged, the loss is not finite at iteration 30" in done.stdout


@pytest.mark.parametrize(
    "paths, names",
    [
        (("a/sm.log", "a/ours.log"), ["sm", "ours"]),
        (("sm/train.log", "ours/train.log"), ["sm", "ours"]),
        (("a/x/t.log", "b/x/t.log"), ["a/x/t.log", "b/x/t.log"]),
    ],
)
def test_names_tell_logs_apart(paths, names):
    assert plot_log.labels([Path(path) for path in paths]) == names


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "there is no log"),
        ("some text\n", "is no log of"),
        ("\0\xff" * 99, "is no log of"),
        ("", "is no log of"),
        (line("Initializing solver"), "has no iterations yet"),
    ],
)
def test_what_is_no_log(tmp_path, content, says):
    log = tmp_path / "run.log"
    if content is not None:
        log.write_text(content, encoding="latin-1")
    done = run("plot_log", log, "--out", tmp_path / "curves.png")
    assert_error(done, says)
    assert not (tmp_path / "curves.png").exists()
