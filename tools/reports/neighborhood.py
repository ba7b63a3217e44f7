"""What the features show: nearest neighbors of some images, and a map of all in two dimensions."""

from dataclasses import dataclass

import numpy as np

from tools.metrics import retrieval

POINTS = 2000  # of the map, at most; of larger sets, images spread evenly


@dataclass(frozen=True)
class Query:
    """An image and its neighbors, rows of the table; likeness: their cosines."""

    row: int
    neighbors: tuple
    likeness: tuple


def queries(features, chosen, count):
    """[Query] of the rows `chosen`, with `count` neighbors."""
    found = []
    for block, order in retrieval.nearest(features, np.asarray(chosen, np.int64), count):
        for row, near in zip(block.tolist(), order):
            likeness = retrieval.unit(features[near]) @ retrieval.unit(features[[row]])[0]
            found.append(Query(row, tuple(near.tolist()), tuple(likeness.round(3).tolist())))
    return found


def sample(run, count, seed):
    """Rows of random images, half of them wrong where there are enough."""
    answers = run.predictions.levels[0]
    wrong = answers.true != answers.predicted
    order = np.random.default_rng(seed).permutation(len(wrong))
    parts = [order[wrong[order]], order[~wrong[order]]]
    half = min(count // 2, len(parts[0]))
    return np.sort(np.concatenate([parts[0][:half], parts[1][: count - half]])).tolist()


@dataclass(frozen=True)
class Map:
    """The first two principal components of features of unit length.

    rows    int, P: images
    points  float, P x 2, each in -1..1
    shares  of the variance, two numbers in 0..1
    """

    rows: np.ndarray
    points: np.ndarray
    shares: tuple


def principal(features):
    """Map of features, N x D; None if they do not differ.

    From the centered Gram matrix, whose size does not depend on D. Each component's sign makes its
    largest value positive, so that the same features give the same map.
    """
    from scipy.sparse.linalg import eigsh

    count = len(features)
    rows = np.arange(min(count, POINTS)) * count // min(count, POINTS)
    step = max(1, retrieval.NUMBERS // features.shape[1])
    parts = [rows[i : i + step] for i in range(0, len(rows), step)]
    gram = np.zeros((len(rows), len(rows)))
    for i, a in enumerate(parts):
        first = retrieval.unit(features[a])
        for j, b in enumerate(parts[: i + 1]):
            second = first if i == j else retrieval.unit(features[b])
            block = np.s_[i * step : i * step + len(a), j * step : j * step + len(b)]
            gram[block] = first @ second.T
            gram[block[::-1]] = gram[block].T
    gram -= gram.mean(axis=0)
    gram -= gram.mean(axis=1)[:, None]
    total = np.trace(gram)
    if len(rows) < 4 or not total > 1e-9 * len(rows):
        return None
    start = np.sin(np.arange(len(rows)) + 1.0)  # any fixed vector that is no eigenvector
    values, vectors = eigsh(gram, k=2, which="LA", v0=start)
    points = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    points *= np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])
    most = np.abs(points).max()
    return Map(rows, points / most, tuple((np.maximum(values[::-1], 0) / total).tolist()))
