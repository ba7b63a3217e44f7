"""The benchmark runs, and reports every loss at every size; its times are nobody's assertion."""

from commands import run

from tools.benchmarks import losses
from tools.nets import tables


def test_losses():
    done = run("bench", "losses", "--runs", "1")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [(int(row[0]), int(row[1])) for row in rows[::5]] == losses.SIZES
    assert {row[3] for row in rows} == {"glm", *tables.RIVALS}
    assert all(float(row[-1]) > 0 for row in rows)


def test_runs_must_be_counted():
    done = run("bench", "losses", "--runs", "0")
    assert done.returncode == 2 and "--runs must be at least 1" in done.stderr
