"""Damaged results of evaluations: read as they were written, or refused in one sentence."""

import hashlib
import json
import random

import numpy as np
from cases import count
from damage import changed, damaged

from data_prep.common.errors import UserError
from tools import compare, results
from tools.metrics import retrieval
from tools.metrics.calibration import calibration
from tools.metrics.intervals import Bootstrap, Estimate

IMAGES = 20


def result(path):
    """Write a result of two levels; returns its path."""
    rng = np.random.default_rng(0)
    levels, answers = [], []
    for name, classes in (("species", 5), ("family", 2)):
        true, own, ancestor = rng.integers(classes, size=(3, IMAGES))
        from_fine = ancestor if levels else None
        shares = [
            None if ids is None else results.Share(float((ids == true).mean()), (0.1, 0.9), 3)
            for ids in (own, from_fine)
        ]
        sure = rng.random(IMAGES)
        more = {"top": {"1": 0.5}, "calibration": calibration(sure, own == true)}
        levels.append(results.Level(name, classes, classes, *shares, consistency=0.5, **more))
        answers.append(results.Answers(true, own, sure, from_fine))
    keys = np.array([f"{i:08d}" for i in range(IMAGES)])
    fine = results.Fine(0.5, {"a": 0.5}, (results.Confusion(1, "a", "b"),))
    text = ("run", "s.prototxt", "n.prototxt", ("csm",), "w", "0" * 64, "data/x", "test")
    whole = results.Result(*text, IMAGES, tuple(levels), fine, 1.0, **_figures())
    results.write(path, whole, results.Predictions(keys, tuple(answers)))
    return path


def _figures():
    """Those of results.Result that evaluations have since format 2."""
    estimate = Estimate(0.5, (0.4, 0.6))
    decoding = results.Decoding((0.5, 0.5), *[estimate] * 6, severity=Estimate(1.5))
    recall = {str(k): estimate for k in retrieval.KS}
    return {
        "decodings": {"fine": decoding},
        "distance_at": {"1": estimate},
        "retrieval": (retrieval.Retrieval("species", IMAGES, recall, estimate),),
        "bootstrap": Bootstrap(),
    }


def compared(path):
    """The lines of compare.py for a result with itself, or None where it is refused."""
    try:
        found = results.read(path)
        predictions = results.read_predictions(path, found)
    except UserError as error:
        assert "\n" not in str(error) and str(path.with_suffix("")) in str(error)
        return None
    return list(compare.rows_of([found, found], [predictions, predictions]))


def test_damaged_figures(tmp_path):
    """JSON whose bytes are damaged, or one of whose values is another."""
    path, rng, refused, cases = result(tmp_path / "r.json"), random.Random(1), 0, count(600)
    whole = path.read_bytes()
    content = json.loads(whole)
    for _ in range(cases):
        if rng.random() < 0.5:
            path.write_bytes(damaged(rng, whole))
        else:
            path.write_text(changed(rng, content))
        refused += compared(path) is None
    print(f"{cases} results, {refused} refused")
    assert refused > cases / 2


def test_damaged_tables(tmp_path):
    """A table with other bytes is never read, and with its own digest only where it fits."""
    path, rng, refused = result(tmp_path / "r.json"), random.Random(2), 0
    table = results.table_of(path)
    figures, whole = path.read_bytes(), table.read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    for case in range(count(200)):
        data = damaged(rng, whole)
        table.write_bytes(data)
        path.write_bytes(figures)
        if data != whole:
            assert compared(path) is None, case
        found = hashlib.sha256(data).hexdigest()
        path.write_bytes(figures.replace(digest.encode(), found.encode()))
        refused += compared(path) is None
    print(f"{case + 1} tables, {refused} refused")
    assert refused > case / 2
