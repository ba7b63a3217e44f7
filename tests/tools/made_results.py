"""Results of tools/evaluate.py, made of answers that a test chooses."""

import numpy as np

from tools import results


def share(answers, true):
    """results.Share of N answers."""
    right = int(np.sum(answers == true))
    return results.Share(right / len(true), (0.0, 1.0), right)


def write(path, answers, data="data/tiny", **changes):
    """Write a result and its table; returns the path.

    answers: {level, fine to coarse: results.Answers}. changes: other values for results.Result.
    """
    levels = tuple(
        results.Level(
            name,
            classes=6,
            present=2,
            head=None if one.predicted is None else share(one.predicted, one.true),
            from_fine=None if one.from_fine is None else share(one.from_fine, one.true),
        )
        for name, one in answers.items()
    )
    images = len(next(iter(answers.values())).true)
    values = dict(
        experiment=path.stem,
        solver="solver.prototxt",
        net="net.prototxt",
        stages=(),
        weights="w.caffemodel",
        weights_sha256="0" * 64,
        data=data,
        split="test",
        images=images,
        levels=levels,
        fine=results.Fine(0.5, {}, ()),
        seconds=1.0,
    )
    keys = np.array([f"{i:08d}" for i in range(images)])
    predictions = results.Predictions(keys, tuple(answers.values()))
    results.write(path, results.Result(**values | changes), predictions)
    return path
