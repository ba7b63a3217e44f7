"""tools/demo.py: what can be tested of it without training; `make demo` is the rest."""

import os

import pytest
import tiny

from tools import demo


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
    reason = demo.Training("sm", solver, 4, tmp_path / "log", final, (solver,)).due()
    assert says in reason if says else reason is None
