"""Sums up the answers for a split as the figures of a results.Result."""

import numpy as np

from tools import results, scores
from tools.metrics import ranks, tree
from tools.metrics.calibration import calibration
from tools.metrics.collect import DECODINGS
from tools.metrics.intervals import ratios

TOP = 5
PAIRS = 10  # most confused pairs of fine classes that the result lists


def _share(right):
    """results.Share of a bool per image."""
    count = int(right.sum())
    return results.Share(count / len(right), scores.wilson(count, len(right)), count)


def levels(found):
    """([results.Level], [results.Answers]) of a Collector, per level from fine to coarse."""
    hierarchy, from_fine = found.hierarchy, found.from_fine
    shown, answers = [], []
    for j, name in enumerate(hierarchy.levels):
        true, own, size = found.labels[:, j], found.own.get(j), hierarchy.sizes[j]
        ancestor = from_fine[:, j] if j else None
        head = {}
        if own is not None:
            head = {
                "head": _share(own == true),
                "top": ranks.top(found.ranks[j], size),
                "calibration": calibration(found.sure[j], own == true),
            }
        if ancestor is not None:
            head |= {
                "from_fine": _share(ancestor == true),
                "top_of_sums": ranks.top(found.sums_ranks[j], size),
            }
            if own is not None:
                head["consistency"] = float((own == ancestor).mean())
        shown.append(results.Level(name, size, len(np.unique(true)), **head))
        answers.append(results.Answers(true, own, found.sure.get(j), ancestor))
    return shown, answers


def fine(found):
    """results.Fine of a Collector."""
    names, classes = found.hierarchy.names[0], found.hierarchy.sizes[0]
    true, predicted = found.labels[:, 0], found.own[0]
    images = np.bincount(true, minlength=classes)
    right = np.bincount(true[predicted == true], minlength=classes)
    present = np.flatnonzero(images)
    recall = right[present] / images[present]
    wrong = predicted != true
    pairs, counts = np.unique(true[wrong] * classes + predicted[wrong], return_counts=True)
    worst = np.argsort(-counts, kind="stable")[:PAIRS]
    return results.Fine(
        mean_class_accuracy=float(recall.mean()),
        recall={names[c]: float(value) for c, value in zip(present, recall)},
        confused=tuple(
            results.Confusion(int(counts[i]), *(names[c] for c in divmod(int(pairs[i]), classes)))
            for i in worst
        ),
        top5=float((found.ranks[0] < TOP).mean()) if classes > TOP else None,
    )


def _sums(found, decoding):
    """{figure: (upper, lower)}, per image, whose sums are the figures of a decoding."""
    tables, true = found.hierarchy.labels, found.labels
    answers = found.answers(decoding)
    ones = np.ones(len(true))
    distance = tree.distance(tables, answers[:, 0], true[:, 0])
    common, predicted, actual = tree.overlaps(tables, answers, true)
    return {
        "right_paths": ((answers == true).all(axis=1), ones),
        "valid_paths": (tree.valid_paths(tables, answers), ones),
        "distance": (distance, ones),
        "severity": (distance, distance > 0),
        "precision": (common, predicted),
        "recall": (common, actual),
        "f1": (2 * common, predicted + actual),
    }


def decodings(found):
    """({decoding: results.Decoding}, {k as text: Estimate of the distance @k}) of a Collector."""
    sums = {
        (decoding, figure): pair
        for decoding in DECODINGS
        for figure, pair in _sums(found, decoding).items()
    }
    ones = np.ones(len(found.labels))
    sums |= {("at", k): (found.distances[:, i], ones) for i, k in enumerate(found.distance_ks)}
    estimates = ratios(sums)
    return {
        decoding: results.Decoding(
            tuple((found.answers(decoding) == found.labels).mean(axis=0).tolist()),
            **{figure: value for (of, figure), value in estimates.items() if of == decoding},
        )
        for decoding in DECODINGS
    }, {str(k): estimates["at", k] for k in found.distance_ks}
