"""Batches of P classes x K images for the large-margin loss (`--order hierarchical`).

A class has made `passes` = its records so far / its images. Its next appearance is due at a random
moment within the K images that it takes. A batch is filled with packs of up to P/G classes of one
group (classes with the same parent): the class that is due first, the sibling that is due first,
and further siblings that are due. Smaller groups are topped up with further packs, and a group with
more than 1/G of the images contributes several packs. A class without siblings is joined by a
cousin, from the lowest level that has one. A batch has classes of at least two groups, on every
level where equal use of the images allows it.

Equal use comes first. After E passes each image has been written E or E + 1 times (slightly more
often if all images together fill less than two batches): a class more than one pass ahead of the
average has to wait. A class with more images than all its siblings together therefore appears
without them once they have been used.

Several processes that train together take consecutive records (record i goes to rank i mod N), and
the metric losses gather the samples of all: N ranks with P K / N images each see these batches.
"""

import random
from dataclasses import dataclass

import numpy as np

from data_prep.common.errors import UserError

TINY = 1e-9  # of a pass, for the rounding of floating-point numbers


@dataclass(frozen=True)
class Plan:
    """--groups, --classes and --images of a batch (G, P, K), and --epochs (E)."""

    groups: int
    classes: int
    images: int
    epochs: int

    @property
    def batch(self):
        return self.classes * self.images


def hierarchical(labels, tree, names, plan, seed):
    """The positions of the images in the order of writing: whole batches of P K records.

    labels: fine class of each image; tree: classes x h, Hierarchy.labels; names: of fine classes.
    Raises UserError, with the reason, if these images can't form such batches.
    """
    counts = np.bincount(labels, minlength=len(tree))
    classes = np.flatnonzero(counts)
    _check(counts[classes], tree[classes], [names[c] for c in classes], plan)
    chance = random.Random(f"order {seed}")  # random() gives the same values in all Python versions
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    decks = [_Deck(by_class[c].tolist(), chance) for c in classes]
    composer = _Composer(tree[classes], counts[classes], [names[c] for c in classes], plan, chance)
    order = []
    while not composer.done().all():
        order += [i for c in composer.batch() for i in decks[c].draw(plan.images)]
    return np.array(order, np.int64)


def _check(counts, tree, names, plan):
    """Raises UserError if the options do not fit each other or the images."""
    groups = len(np.unique(_parents(tree)))
    few = int(counts.argmin())
    if plan.classes % plan.groups or plan.classes < 2 * plan.groups:
        problem = (
            f"--classes {plan.classes} must be a multiple of --groups {plan.groups}, 2 x or more"
        )
    elif plan.groups == 1 < groups:
        problem = "a batch needs --groups 2 or more"
    elif plan.groups > groups:
        problem = f"the training images have {groups} groups: --groups can be at most {groups}"
    elif plan.classes > len(counts):
        problem = f"the training images have {len(counts)} classes: choose fewer --classes"
    elif counts[few] < plan.images:
        problem = (
            f"{names[few]} has {counts[few]} training images, and a batch holds {plan.images} "
            f"different ones of a class: choose --images {counts[few]}"
            if counts[few] > 1
            else f"{names[few]} has 1 training image: each class needs 2 or more"
        )
    else:
        return
    raise UserError(f"--order hierarchical: {problem}")


def _parents(tree):
    return tree[:, 1] if tree.shape[1] > 1 else np.zeros(len(tree), np.int64)


class _Deck:
    """The images of a class: each is drawn once before any is drawn again."""

    def __init__(self, images, chance):
        self._images, self._chance, self._left = images, chance, []

    def draw(self, number):
        """`number` different images."""
        hand = self._left[:number]
        self._left = self._left[number:]
        if len(hand) < number:
            mixed = sorted(self._images, key=lambda _: self._chance.random())
            fresh = [image for image in mixed if image not in hand]  # images in hand come last
            need = number - len(hand)
            self._left = fresh[need:] + [image for image in mixed if image in hand]
            hand = hand + fresh[:need]
        return hand


class _Composer:
    """Chooses the classes of each batch in turn. Classes are rows of `tree`."""

    def __init__(self, tree, counts, names, plan, chance):
        self.names, self.plan, self.chance, self.counts = names, plan, chance, counts
        self.pack = plan.classes // plan.groups
        self.step = plan.images / counts  # passes of a class per appearance
        self.passes = 0.0  # mean passes over all images so far
        self.used = np.zeros(len(tree))  # appearances so far
        self.due = np.array([chance.random() for _ in counts]) * self.step  # in passes
        self.parent = np.unique(_parents(tree), return_inverse=True)[1]
        self.split_levels = [level for level in tree.T[:0:-1] if np.ptp(level)]  # coarse to fine
        self.ancestors, self.home, cost = self._homes(tree)
        self.cost = np.minimum(cost, plan.classes)
        # Passes that a class may be ahead of the average. One is too few to fill a batch of more
        # than half a pass.
        self.ahead = max(1, 2 * plan.batch / counts.sum())

    @staticmethod
    def _homes(tree):
        """Returns (ancestors, home, cost).

        ancestors: classes x (h - 1), one number per node of the tree above the fine classes.
        home: the node of the lowest level on which a class has siblings or cousins, -1 for none.
        cost: the most classes, itself included, needed to place one beside it.
        """
        classes, levels = tree.shape
        ancestors = np.zeros((classes, levels - 1), np.int64)
        home, cost, first = np.full(classes, -1), np.ones(classes, np.int64), 0
        for level in range(1, levels):
            _, node = np.unique(tree[:, level], return_inverse=True)
            ancestors[:, level - 1] = node + first
            settled = (home < 0) & (np.bincount(node)[node] > 1)
            home[settled], cost[settled] = node[settled] + first, level + 1
            first += node.max() + 1
        return ancestors, home, cost

    def done(self):
        """Per class: whether it has made its E passes."""
        return self.used * self.step >= self.plan.epochs - TINY

    def batch(self):
        """The classes of the next batch."""
        self.passes = self.used.sum() * self.plan.images / self.counts.sum()
        allowed = self.used * self.step <= self.passes + self.ahead
        allowed &= (self.used + 1) * self.step <= self.plan.epochs + self.ahead + TINY
        state = _Batch(self, allowed)
        while room := self.plan.classes - len(state.chosen):
            candidates, size = state.candidates(room)
            if not candidates.any():
                self._give_up()
            head = self._first_due(candidates, 1)[0]
            state.add(head)
            siblings = state.free & (self.parent == self.parent[head])
            siblings = self._first_due(siblings, min(size, room) - 1)
            late = self.late(1)
            for sibling in siblings[:1] + [c for c in siblings[1:] if late[c]]:
                state.add(sibling)
        for c in state.chosen:
            self.used[c] += 1
            self.due[c] = (self.used[c] + self.chance.random()) * self.step[c]
        return state.chosen

    def late(self, intervals):
        """Per class: whether its next appearance is due within this number of its intervals."""
        return (self.due <= self.passes + intervals * self.step) & ~self.done()

    def _first_due(self, candidates, number):
        found = np.flatnonzero(candidates)
        return found[np.argsort(self.due[found], kind="stable")[:number]].tolist()

    def _give_up(self):
        behind = int((self.used * self.step).argmin())
        raise UserError(
            "--order hierarchical: the classes are too unequal in size for batches of "
            f"{self.plan.classes} classes that use all images equally often: "
            f"{self.names[behind]} has {self.counts[behind]} of {self.counts.sum()} images but "
            "appears once per batch: choose fewer --classes, or --order shuffled"
        )


class _Batch:
    """A batch being filled. allowed: per class, False if it is too far ahead of the average."""

    def __init__(self, composer, allowed):
        self.composer, self.free, self.chosen = composer, allowed.copy(), []
        self.company = np.zeros(composer.ancestors.max(initial=0) + 2, np.int64)  # -1: no home
        self.company[-1] = 1
        self.groups = np.zeros(len(composer.parent), bool)  # with a class here

    def add(self, c):
        self.chosen.append(c)
        self.free[c] = False
        self.groups[self.composer.parent[c]] = True
        self.company[self.composer.ancestors[c]] += 1

    def candidates(self, room):
        """(candidates for the first class of the next pack, number of classes in that pack)."""
        composer = self.composer
        for c in self.chosen[::-1]:
            if self.company[composer.home[c]] == 1 and composer.home[c] >= 0:
                cousins = self.free & (composer.ancestors == composer.home[c]).any(axis=1)
                if cousins.any():
                    return cousins, composer.pack
        settled = self.company[composer.home] > 0
        affordable = self.free & (settled | (composer.cost <= room))
        if room <= composer.pack + 1:
            for classes in (affordable, self.free):
                others = self._of_another_group(classes)
                if others is not None:
                    return others, 2
        new = affordable & composer.late(1) & ~self.groups[composer.parent]
        for classes in (affordable & composer.late(-1), new, affordable):
            if classes.any():
                return classes, composer.pack
        return self.free, composer.pack

    def _of_another_group(self, classes):
        """The classes that would add a second group to the batch, on the highest possible level.

        None if the batch already has two groups there, or no class can add one.
        """
        for level in self.composer.split_levels:
            groups = set(level[self.chosen].tolist())
            if len(groups) == 1:
                others = classes & (level != groups.pop())
                if others.any():
                    return others
        return None
