"""Retrieval on a feature: are the nearest neighbors of an image of its own class?

Every image is a query against all others, by the cosine of their features. Recall@k (Jegou, Douze,
Schmid 2011; Oh Song, Xiang, Jegelka, Savarese 2016): share of queries with an image of their class
among the k nearest. mAP: mean over the queries of the average precision of the whole ranking.
Queries whose class has no other image are left out. Of neighbors at equal distance, the one that
comes first in the data set counts as nearer.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.common import progress

from .intervals import Estimate, ratios

KS = (1, 2, 4, 8)
QUERIES = 5000  # at most; of larger sets, queries are spread evenly over the images
CELLS = 1 << 21  # of a block of similarities: 8 MB, and some ten times that while it is ranked
NUMBERS = 1 << 25  # of a block of features: 128 MB


@dataclass(frozen=True)
class Retrieval:
    """Of one level: recall is {k as text: Estimate}; queries: images with others of their class."""

    level: str
    queries: int
    recall: dict[str, Estimate]
    mean_average_precision: Estimate

    def __post_init__(self):
        if list(self.recall) != [str(k) for k in KS]:
            raise ValueError(f"recall is not given for {', '.join(map(str, KS))}")


def unit(features):
    """float32, N x D: the features at length 1; those of length 0 stay 0."""
    features = np.asarray(features, np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))[:, None]
    return features / np.where(length == 0, 1, length).astype(np.float32)


def nearest(features, queries, k=None):
    """Yield (block of queries, int64 q x k: indices of the other images, nearest first).

    features: float, N x D, possibly a memory map; queries: int, indices of images; k: how many,
    default all N - 1.
    """
    count, wide = features.shape
    rows = max(1, min(CELLS // count, NUMBERS // wide))
    step = max(1, NUMBERS // wide)
    k = count - 1 if k is None else min(k, count - 1)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        asked = unit(features[block])  # q x D
        likeness = np.concatenate(
            [asked @ unit(features[i : i + step]).T for i in range(0, count, step)], axis=1
        )  # q x N
        likeness[np.arange(len(block)), block] = -np.inf  # the query itself: last
        yield block, np.argsort(-likeness, axis=1, kind="stable")[:, :k]


def chosen(count):
    """int64: the indices of the images that are queries."""
    return np.arange(count) if count <= QUERIES else np.arange(QUERIES) * count // QUERIES


def retrieval(features, labels, levels):
    """[Retrieval] per level on which any class has two images.

    features: float, N x D; labels: int, N x h; levels: names.
    """
    queries = chosen(len(features))
    first = np.zeros((len(levels), len(queries)))  # rank of the nearest of the class, from 1
    precision = np.zeros_like(first)
    others = np.zeros_like(first)
    done = 0
    with progress.bar("retrieval", "queries", len(queries)) as bar:
        for block, order in nearest(features, queries):
            part = slice(done, done + len(block))
            for j in range(len(levels)):
                found = _ranked(labels[order, j] == labels[block, j, None])
                first[j, part], precision[j, part], others[j, part] = found
            done += len(block)
            bar.update(len(block))
    return [
        _of_level(level, *(values[j][others[j] > 0] for values in (first, precision)))
        for j, level in enumerate(levels)
        if others[j].any()
    ]


def _ranked(same):
    """(rank of the first, average precision, number) of True per row. same: bool, q x (N - 1)."""
    ranks = np.arange(1, same.shape[1] + 1)
    number = same.sum(axis=1)
    hits = np.cumsum(same, axis=1, dtype=np.int32) / ranks  # precision at each rank
    average = np.where(same, hits, 0).sum(axis=1) / np.maximum(number, 1)
    first = same.argmax(axis=1) + 1 if same.shape[1] else np.zeros(len(same))
    return first, average, number


def _of_level(level, first, precision):
    ones = np.ones(len(first))
    found = ratios({str(k): (first <= k, ones) for k in KS} | {"map": (precision, ones)})
    return Retrieval(level, len(first), found, found.pop("map"))
