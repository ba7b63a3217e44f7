"""tools/demo.py: what can be tested of it without training; `make demo` is the rest."""

import os
import shutil
from pathlib import Path

import pytest
import tiny
from caffe.proto import caffe_pb2

from tools import caffe_log, demo, snapshots, solver_net
from tools.nets import tables


def test_forecast_comes_with_the_second_report():
    """800 iterations of 3 seconds each; whatever comes before the first report does not count."""
    forecast = demo.Forecast(800)
    assert forecast.at(0, 1000.0) is None
    assert forecast.at(20, 1060.0) == "3.00 s an iteration: 39 more minutes of training"
    assert forecast.at(40, 1120.0) is None


def test_trainings_are_those_of_the_solvers():
    trainings = [demo.Training.of(variant) for variant in demo.VARIANTS]
    assert [training.iterations for training in trainings] == [400, 400]
    assert all(training.path.is_file() for training in trainings)
    assert len({training.final for training in trainings}) == len(trainings)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda path: None, None),
        (os.unlink, "is missing"),
        (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is truncated"),
        (lambda path: os.utime(path, (5, 5)), "solver is newer than"),
    ],
)
def test_only_whole_and_newer_weights_are_kept(tmp_path, change, says):
    solver = tmp_path / "solver"
    solver.touch()
    os.utime(solver, (10, 10))
    final = tiny.weights(tmp_path / "model_iter_4.caffemodel")
    change(final)
    reason = demo.Training("sm", solver, 4, tmp_path / "log", final, (solver,), None).due()
    assert says in reason if says else reason is None


LAST = 6


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A Training of OURS on tiny images: 6 iterations, snapshots after 2, 4 and 6."""
    folder = tmp_path / "data"
    for split in ("train", "test"):
        tiny.data_set(folder, [0, 1, 2, 3, 4, 5, 0, 2], [5, 1, 2, 3, 4, 0, 0, 3], split)
    more = (
        f"max_iter: {LAST} snapshot: 2 display: 1 test_iter: 2 test_interval: {LAST} "
        "random_seed: 5 momentum: 0.9"
    )
    path = tiny.solver(tmp_path, folder, tables.STAGES["ours"], embedding=16, more=more)
    start = tmp_path / "start.caffemodel"
    start.write_bytes(caffe_pb2.NetParameter(layer=[dict(name="other")]).SerializeToString())
    monkeypatch.setattr(demo, "WEIGHTS", start)
    path.write_text(path.read_text().replace("base_lr: 0.01", "base_lr: 0.0001"))
    solver = solver_net.read_solver(path)
    final = Path(f"{solver.snapshot_prefix}_iter_{LAST}.caffemodel")
    for file in (path, demo.WEIGHTS):
        os.utime(file, (10, 10))
    log = tmp_path / "train.log"
    return demo.Training("ours", path, LAST, log, final, (path, demo.WEIGHTS), solver)


def losses(training):
    return caffe_log.read(training.log).series["test", "loss_fine"][1].tolist()


@pytest.mark.parametrize("left, resumes", [((2, 4), 4), ((2,), 2), ((), None)])
def test_an_interrupted_training_ends_with_the_same_weights(training, capfd, left, resumes):
    """The log goes on, and holds each iteration once."""
    demo.train(training, 0)
    expected, tested = training.final.read_bytes(), losses(training)
    assert training.due() is None
    for found in snapshots.of_solver(training.solver):
        if found.iteration not in left:
            found.model.unlink()
            found.state.unlink()
    capfd.readouterr()
    assert training.due()
    demo.train(training, 0)
    assert training.final.read_bytes() == expected and losses(training) == tested
    iterations = caffe_log.read(training.log).series["train", caffe_log.TOTAL][0].tolist()
    assert iterations == [*range(LAST + 1)]
    said = capfd.readouterr().out
    assert (f"-snapshot {training.final.parent}/model_iter_{resumes}.solverstate" in said) == bool(
        resumes
    )
    assert training.log.with_suffix(".1.log").exists() != bool(resumes)


def test_snapshots_that_can_not_be_resumed(training):
    """Of other inputs, incomplete ones, and those without a log start over."""
    demo.train(training, 0)
    training.final.unlink()
    newest = training.snapshot()
    assert newest.iteration == 4
    newest.state.write_bytes(newest.state.read_bytes()[:50])
    assert training.snapshot().iteration == 2
    shutil.move(training.log, training.log.with_suffix(".old"))
    assert training.snapshot() is None
    training.log.touch()
    assert training.snapshot().iteration == 2
    os.utime(training.path)
    assert training.snapshot() is None
