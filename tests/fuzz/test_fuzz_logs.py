"""Damaged logs: plot_log.py reads or refuses them in one sentence, and never fails otherwise."""

import io
import random
import warnings

import pytest
from cases import count
from damage import damaged

from data_prep.common.errors import UserError
from tools import caffe_log, plot_log


def log_text():
    """A log with all kinds of lines that caffe_log reads."""
    lines = []
    for n in range(0, 60, 10):
        lines += [
            f"solver.cpp:330] Iteration {n}, Testing net (#0)",
            f"solver.cpp:397]     Test net output #0: accuracy_fine = {n / 100}",
            "solver.cpp:397]     Test net output #1: loss_fine = 87.3365 (* 1 = 87.3365 loss)",
            f"solver.cpp:330] Iteration {n}, Testing net (#1)",
            f"solver.cpp:218] Iteration {n} (2.5 iter/s, 4s/10 iters), loss = {2 / (n + 1)}",
            "solver.cpp:237]     Train net output #0: loss_fine = -nan(ind) (* 1 = nan loss)",
            "solver.cpp:237]     Train net output #1: glm_diagnostics = 0.5",
            "solver.cpp:237]     Train net output #2: glm_diagnostics = 0.25",
            f"sgd_solver.cpp:105] Iteration {n}, lr = 0.001, m = 0.9, wd = 0.0004, gs = 1",
        ]
    lines += ["solver.cpp:10] Check failed: error == cudaSuccess (2 vs. 0)  out of memory"]
    return "".join(f"[0] I1123 14:01:02.123456  4242 {line}\n" for line in lines)


ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "latin-1")


def test_damaged_logs(tmp_path):
    rng, text, refused = random.Random(1), log_text(), 0
    for case in range(count(600)):
        path = tmp_path / "run.log"
        path.write_bytes(damaged(rng, text.encode(rng.choice(ENCODINGS))))
        try:
            log = caffe_log.read(path)
        except UserError as error:
            assert "\n" not in str(error), case
            refused += 1
            continue
        for iterations, values in log.series.values():
            assert len(iterations) == len(values) and (iterations[1:] > iterations[:-1]).all(), case
        log.diverged()
        assert {row.count("\t") for row in plot_log.rows([log], ["run"])} == {4}, case
    print(f"{case + 1} logs, {refused} refused")
    assert 0 < refused < case


@pytest.mark.filterwarnings("ignore:Glyph")  # of characters that no font has
def test_damaged_logs_are_drawn(tmp_path):
    rng, text = random.Random(2), log_text()
    for _ in range(count(3)):
        path = tmp_path / "run.log"
        path.write_bytes(damaged(rng, text.encode()))
        try:
            log = caffe_log.read(path)
            picture = plot_log.figure([log], ["run"])
        except UserError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.savefig(io.BytesIO(), format="png", dpi=20)
