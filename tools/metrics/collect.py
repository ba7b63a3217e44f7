"""Collects per image what the figures need, batch by batch, so that no scores are kept.

What is kept takes some 10 numbers per image and level, whatever the number of classes.
"""

import numpy as np

from tools import scores
from tools.recognition import decode

from . import ranks, tree

DECODINGS = ("own", "fine", "joint", "risk")  # names of results.Result.decodings


class Collector:
    """The answers for N images of a data set.

    hierarchy   Hierarchy with h levels
    labels      int, N x h: the true classes
    own         {level, 0 = fine: int, N: answers of its classifier}
    sure        {level: float64, N: their probabilities}
    ranks       {level: int, N: rank of the true class, from 0}
    sums_ranks  {coarse level: the same by the sums of the probabilities of the fine classes below}
    distances   float64, N x k: mean distances of the first fine predictions, k of `distance_ks`
    decoded     {name, e.g. "joint": int, N: fine class}
    """

    def __init__(self, hierarchy, labels, heads):
        count, levels, classes = len(labels), range(len(hierarchy.levels)), hierarchy.sizes[0]
        self.hierarchy, self.labels = hierarchy, labels
        self.distance_ks = [k for k in tree.KS if k == 1 or k < classes]
        self.own = {level: np.zeros(count, np.int64) for level in heads}
        self.sure = {level: np.zeros(count) for level in heads}
        self.ranks = {level: np.zeros(count, np.int64) for level in heads}
        self.sums_ranks = {level: np.zeros(count, np.int64) for level in levels[1:]}
        self.distances = np.zeros((count, len(self.distance_ks)))
        self.decoded = {name: np.zeros(count, np.int64) for name in ("joint", "risk")}

    def add(self, start, outputs):
        """Take the scores {level: n x classes} of the images from `start` on."""
        part = slice(start, start + len(outputs[0]))
        true, labels = self.labels[part], self.hierarchy.labels
        sure = {level: scores.softmax(output) for level, output in outputs.items()}
        for level, output in outputs.items():
            self.own[level][part] = answers = output.argmax(axis=1)
            self.sure[level][part] = np.take_along_axis(sure[level], answers[:, None], 1)[:, 0]
            self.ranks[level][part] = ranks.rank_of(output, true[:, level])
        for level, found in self.sums_ranks.items():
            found[part] = ranks.rank_of(decode.sums(sure[0], labels[:, level]), true[:, level])
        best = ranks.best(outputs[0], self.distance_ks[-1])
        self.distances[part] = tree.distances_at(labels, true[:, 0], best)
        for name, found in self.decoded.items():
            found[part] = getattr(decode, name)(labels, sure)

    @property
    def from_fine(self):
        """int64, N x h: the predicted fine classes and their ancestors."""
        return self.hierarchy.labels[self.own[0]]

    def answers(self, decoding):
        """int64, N x h: the answers on all levels, by one of DECODINGS.

        own: of each level's classifier, or the ancestor of the fine answer where it has none.
        """
        if decoding in self.decoded:
            return self.hierarchy.labels[self.decoded[decoding]]
        found = self.from_fine
        if decoding == "own":
            for level, answers in self.own.items():
                found[:, level] = answers
        return found
