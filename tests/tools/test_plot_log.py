"""tools/plot_log.py on logs as Caffe writes them: new and old dates, restarted, cut, diverged."""

import os
import re
import subprocess
from pathlib import Path

import cv2
import nets_data
import numpy as np
import pytest
import tiny
from commands import ROOT, assert_error, run

from tools import caffe_log, curves, diagnostics, plot_log
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
            ["gradient_norm"],
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
    nets_data.build(folder / "data/cards", "cards", ("card", "suit", "color"), (6, 3, 2), 150)
    options = "--data data/cards --net squeezenet --out nets --train-batch 8 --max-iter 2".split()
    done = run("make_prototxt", *options, "--diagnostics", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    "variant, loss, levels",
    [
        ("ours", "glm", 3),
        *(
            (f"sm_{name}", name, 1)
            for name, loss in tables.LOSSES.items()
            if loss.reads == (tables.FEATURE, tables.FINE_LABEL)
        ),
    ],
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


NOT_FINITE = "nan -nan inf -nan(ind) nan(snan) 1.#QNAN -1.#IND 1.#INF -1.#INF00 1.#J 1e39".split()


@pytest.mark.parametrize(
    "loss, says",
    [
        *((value, "loss_fine (test) is not finite") for value in NOT_FINITE),
        ("87.3365", "loss_fine (test) is 87.3365, the probability of each class is 0"),
    ],
)
def test_divergence_is_recognized(tmp_path, loss, says):
    log = tmp_path / "run.log"
    log.write_text(steps(0, 40) + steps(40, 70, loss=lambda n: loss))
    assert caffe_log.read(log).diverged() == (40, says)


def test_divergence_is_reported(tmp_path):
    log = tmp_path / "run.log"
    log.write_text(steps(0, 30) + steps(30, 60, loss=lambda n: "-nan"))
    done = run("plot_log", log, "--out", tmp_path / "curves.png")
    assert done.returncode == 0
    assert "run: diverged at iteration 30: loss is not finite" in done.stdout


def test_divergence_at_the_start_asks_for_weights(tmp_path):
    (tmp_path / "run.log").write_text(steps(0, 30, loss=lambda n: "nan"))
    done = run("plot_log", tmp_path / "run.log", "--out", tmp_path / "curves.png")
    assert "at iteration 0: loss" in done.stdout and "given (-weights)?" in done.stdout


@pytest.mark.parametrize(
    "text, iteration, says",
    [
        # one loss of several, while the sum is still a mean over earlier ones
        ("    Train net output #0: glm_loss = nan (* 0.8 = nan loss)", 30, "glm_loss (train) is"),
        # without `display`, tests alone tell it
        ("    Test net output #1: loss_fine = nan (* 1 = nan loss)", 30, "loss_fine (test) is"),
    ],
)
def test_divergence_of_one_output(tmp_path, text, iteration, says):
    header = f"Iteration {iteration}, " + ("loss = 1" if "Train" in text else "Testing net (#0)")
    (tmp_path / "run.log").write_text(steps(0, 30) + line(header) + line(text))
    found = caffe_log.read(tmp_path / "run.log").diverged()
    assert found[0] == iteration and found[1].startswith(says)


@pytest.mark.parametrize(
    "end, says",
    [
        (line("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", "F1123"), "Check f"),
        (
            line("caffe train stopped: a Python layer raised ValueError: the features", "E1123"),
            "caffe train stopped: a Python layer raised",
        ),
    ],
)
def test_an_end_by_an_error_is_reported(tmp_path, end, says):
    """The GLM layer refuses nan before Caffe prints a loss that shows it."""
    log = tmp_path / "run.log"
    log.write_text(steps(0, 50) + end)
    done = run("plot_log", log, "--out", tmp_path / "curves.png")
    assert f"run: Caffe stopped: {says}" in done.stdout
    log.write_text(steps(0, 50) + end + steps(40, 70))  # resumed
    assert caffe_log.read(log).stopped is None


def prefixed(prefix, text):
    return "".join(f"{prefix}{one}\n" for one in text.splitlines())


PLAIN = steps(0, 50)
SHAPES = {  # as public logs have them
    "utf-16 of PowerShell": PLAIN.replace("\n", "\r\n").encode("utf-16"),
    "utf-16 without its mark": PLAIN.encode("utf-16-le"),
    "utf-16, big end first": PLAIN.encode("utf-16-be"),
    "utf-8 with a mark": PLAIN.encode("utf-8-sig"),
    "latin-1": ("Vorwärts\n" + PLAIN).encode("latin-1"),
    "utf-8 and latin-1": "Größe\n".encode() + "Größe\n".encode("latin-1") + PLAIN.encode(),
    "utf-16 appended to utf-8": b"first\n" + PLAIN.encode("utf-16-le"),
    "docker compose": prefixed("trainer-1  | ", PLAIN).encode(),
    "docker compose in color": prefixed("\x1b[36mtrainer-1  |\x1b[0m ", PLAIN).encode(),
    "docker compose, old names": prefixed("trainer_1 | ", PLAIN).encode(),
    "kubernetes": prefixed("2026-11-23T14:01:02.123456789Z ", PLAIN).encode(),
    "kubernetes on a node": prefixed("2026-11-23T14:01:02.1Z stderr F ", PLAIN).encode(),
    "kubectl --prefix": prefixed("[pod/train-x7v/caffe] ", PLAIN).encode(),
    "journald": prefixed("Nov 23 14:01:02 host caffe[4242]: ", PLAIN).encode(),
    "srun -l": prefixed(" 0: ", PLAIN).encode(),
    "Open MPI": prefixed("[1,0]<stderr>:", PLAIN).encode(),
    "MPICH": prefixed("[0] ", PLAIN).encode(),
    "carriage returns": PLAIN.replace("\n", "\r").encode(),
    "a progress bar in between": re.sub("(?m)^", "\r 50%|#####     | 5/10\r", PLAIN).encode(),
    "colors": prefixed("\x1b[32m", PLAIN.replace("\n", "\x1b[0m\n")).encode(),
    "without glog's prefix": re.sub("(?m)^.*?\\] ", "", PLAIN).encode(),
    "another logger": re.sub(
        "(?m)^.*?\\] ", "1508138445  INFO: solver.cpp : line 218 : ", PLAIN
    ).encode(),
    "lines that lost their ends": PLAIN.replace("loss)\n", "loss)").encode(),
    "NVIDIA's Caffe": PLAIN.replace("s/10 iters)", "s/10 iter)")
    .replace("Iteration 0 (2.5 iter/s, 4s/10 iter)", "Iteration 0 (3.8928 s)")
    .replace("lr = 0.001", "lr = 0.001, m = 0.9, wd = 0.0004, gs = 1")
    .encode(),
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_logs_as_people_have_them(tmp_path, data):
    (tmp_path / "plain.log").write_text(PLAIN)
    (tmp_path / "run.log").write_bytes(data)
    plain, found = (caffe_log.read(tmp_path / f"{name}.log") for name in ("plain", "run"))
    assert found.series.keys() == plain.series.keys() and found.losses == plain.losses
    for key, (x, y) in plain.series.items():
        assert found.series[key][0].tolist() == x.tolist(), key
        assert found.series[key][1].tolist() == y.tolist(), key


def test_a_log_of_2014(tmp_path):
    """The rate came before the loss, test outputs had no names, and the test net no number."""
    text = ""
    for n in (0, 20):
        text += line(f"Iteration {n}, lr = {0.01 / (n + 1)}", "I0425", "solver.cpp:208")
        text += line(f"Iteration {n}, loss = {n + 1}", "I0425", "solver.cpp:65")
        text += line(f"Iteration {n}, Testing net", "I0425", "solver.cpp:106")
        text += line(f"Test score #0: {n / 100}", "I0425", "solver.cpp:142")
        text += line("Test score #1: 2.5", "I0425", "solver.cpp:142")
    (tmp_path / "run.log").write_text(text)
    log = caffe_log.read(tmp_path / "run.log")
    assert {key: y.tolist() for key, (_, y) in log.series.items()} == {
        ("train", "lr"): [0.01, 0.01 / 21],
        ("train", "loss"): [1, 21],
        ("test", "score #0"): [0, 0.2],
        ("test", "score #1"): [2.5, 2.5],
    }
    assert run("plot_log", tmp_path / "run.log", "--out", tmp_path / "c.png").returncode == 0


@pytest.mark.parametrize("names", [("[0] ", "[1] "), ("sm-1    | ", "ours-1  | "), ("0: ", "1: ")])
def test_several_processes_in_one_file(tmp_path, names):
    """The first is drawn, and the others are named; their iterations do not replace its."""
    one = prefixed(names[0], PLAIN).splitlines()
    two = prefixed(names[1], steps(0, 50, loss=lambda n: 99)).splitlines()
    mixed = [text for pair in zip(one, [two[0]] * 20 + two) for text in pair]
    (tmp_path / "run.log").write_text("\n".join(mixed) + "\n")
    done = run("plot_log", tmp_path / "run.log", "--out", tmp_path / "c.png")
    assert "loss 2 at iteration 0, 0.04878 at iteration 40" in done.stdout, done.stderr
    assert f"also holds the iterations of {names[1].strip()}: not drawn" in done.stdout


def test_an_output_named_like_the_sum(tmp_path):
    """Most nets call their loss `loss`, as the log calls the solver's mean over iterations."""
    text = "".join(
        line(f"Iteration {n}, loss = 1")
        + line("    Train net output #0: loss = 2 (* 1 = 2 loss)")
        + line(f"Iteration {n}, Testing net (#0)")
        + line("    Test net output #0: loss = 3 (* 1 = 3 loss)")
        for n in (0, 20)
    )
    (tmp_path / "run.log").write_text(text)
    log = caffe_log.read(tmp_path / "run.log")
    assert log.series["train", "loss"][1].tolist() == [1, 1]
    assert log.series["test", "loss"][1].tolist() == [3, 3]
    assert [panel.title for panel in plot_log.panels([log])] == ["loss"]


@pytest.mark.parametrize("name", ["$x_{$", "_run", "a$b$c", "tab\tname", "line\nname", "\udcff"])
def test_names_are_drawn_as_they_are(tmp_path, name):
    log = tmp_path / f"{name}.log"
    log.write_text(
        steps(0, 50)
        .replace("accuracy_fine", "accuracy_$fine_{")
        .replace("glm_loss", name.split()[0].encode("ascii", "replace").decode())
    )
    done = run("plot_log", log, "--out", tmp_path / "c.png", "--tsv", tmp_path / "c.tsv")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert {row.count("\t") for row in (tmp_path / "c.tsv").read_text().splitlines()} == {4}


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
        (None, "not found (current folder: "),
        ("some text\n", "is not a log of"),
        ("\0\xff" * 99, "is not a log of"),
        ("", "is not a log of"),
        (line("Initializing solver"), "has no iterations: wait until training has begun"),
        (line("Check failed: x", "F1123"), "has no iterations (Check failed: x)"),
        (line("Iteration 1, loss = 1e") + line(f"Iteration {'9' * 5000}, lr = 1"), "no iterations"),
        (line("Iteration 1, Testing net (#1)"), "has no iterations"),
        (line("Iteration 1, Testing net (#0)") + line("Iteration 1, lr = 1"), "neither losses nor"),
    ],
)
def test_other_files_are_refused(tmp_path, content, says):
    log = tmp_path / "run.log"
    if content is not None:
        log.write_text(content, encoding="latin-1")
    done = run("plot_log", log, "--out", tmp_path / "curves.png")
    assert_error(done, says)
    assert not (tmp_path / "curves.png").exists()


def test_flows(tmp_path):
    """A table of tools/flows.py: norms and shares of the losses that act, and all together."""
    table = tmp_path / "flows.tsv"
    head = "iteration loss weight value gradient share all deviation".split()
    rows = [
        ("0", "loss_fine", "1.0", "3.5", "0.25", "0.5", "0.375", "1e-07"),
        ("0", "glm_loss", "0.8", "1.5", "0.25", "0.5", "0.375", "1e-07"),
        ("0", "loss1/loss_fine", "0.3", "3.5", "0.0", "0.0", "0.375", "1e-07"),
        ("10", "loss_fine", "1.0", "2.5", "0.125", "0.2", "0.5", "1e-07"),
        ("10", "glm_loss", "0.8", "1.0", "0.5", "0.8", "0.5", "1e-07"),
        ("10", "loss1/loss_fine", "0.3", "3.0", "0.0", "0.0", "0.5", "1e-07"),
    ]
    table.write_text("".join("\t".join(row) + "\n" for row in (head, *rows)))
    out = tmp_path / "flows.png"
    done = run("plot_log", table, "--out", out, "--tsv", tmp_path / "numbers.tsv")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(out)).shape[1] > 500  # two panels
    found = [row.split("\t") for row in (tmp_path / "numbers.tsv").read_text().splitlines()[1:]]
    assert ["flows", "train", "flow glm_loss", "10", "0.5"] in found
    assert ["flows", "train", "share loss_fine", "10", "0.2"] in found
    assert ["flows", "train", "flow all losses", "0", "0.375"] in found
    assert not any("loss1" in row[2] for row in found) and len(found) == 10
    panels = curves.panels([plot_log.read(table)])
    assert [panel.title for panel in panels] == [
        "gradient into the feature",
        "share of the gradients' norms",
    ]
    table.write_text(table.read_text() + "\t".join(("20", "glm_loss", *["x"] * 6)) + "\n")
    assert_error(run("plot_log", table, "--out", out), "flows.tsv, line 8 is damaged")
