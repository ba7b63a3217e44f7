"""The newest samples of earlier batches, for a loss over more than one batch holds: no Caffe.

X. Wang, H. Zhang, W. Huang, M. R. Scott, "Cross-batch memory for embedding learning", CVPR 2020:
while a network learns slowly, the features that it gave some batches ago still tell where a class
is. They cost no pass through the network, and have no gradient.
"""

from python_layers.backend import array_module
from python_layers.pairwise import products


class SampleMemory:
    """A ring of the newest `capacity` samples: features, as they were given, labels, and the
    features' products with each other, so that a pass only needs those of its batch.

    Memory is bounded by r x d numbers and r x r of float64, r = capacity + the largest batch.
    Deterministic: the order of the kept samples is a function of the sizes of the batches.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self._features = None

    def behind(self, features, labels):
        """(features, labels, gram) of a batch and, behind it, of the kept samples.

        features: n x d.  labels: a list of n values per level.  gram: X X^T of the features.
        All are views, valid until the next call. A batch of other dimensions, another number of
        levels or another dtype empties the memory: its samples can't be compared.
        """
        self._make_room(features, labels)
        self._batch = len(features)
        start, end = self._room - self._batch, self._room + self._filled
        self._features[start : self._room] = features
        for kept, given in zip(self._labels, labels):
            kept[start : self._room] = given
        union, gram = self._features[start:end], self._gram[start:end, start:end]
        gram[: self._batch] = products(union, self._batch)
        gram[self._batch :, : self._batch] = gram[: self._batch, self._batch :].T
        return union, [kept[start:end] for kept in self._labels], gram

    def keep(self):
        """Keep the batch of the last `behind`, in place of the oldest samples."""
        count = min(self._batch, self.capacity)
        first = min(count, self.capacity - self._next)
        # By columns, then by rows, so that the batch's products with itself come along.
        for array in (self._features, *self._labels, self._gram.T, self._gram):
            ring, batch = array[self._room :], array[self._room - count : self._room]
            ring[self._next : self._next + first] = batch[:first]
            ring[: count - first] = batch[first:]
        self._filled = min(max(self._filled, self._next + count), self.capacity)
        self._next = (self._next + count) % self.capacity

    def _make_room(self, features, labels):
        """Arrays of `room` rows, for the batch, and behind them of `capacity`, the ring; the
        products have columns alike."""
        shape = features.shape[1], features.dtype, len(labels)
        same = self._features is not None and shape == self._shape
        if same and len(features) <= self._room:
            return
        old = [self._features, *self._labels, self._gram] if same else None
        if not same:
            self._shape, self._filled, self._next, self._room = shape, 0, 0, 0
        rows, before = len(features) + self.capacity, self._room
        self._room = len(features)
        xp = array_module(features)
        self._features = xp.empty((rows, features.shape[1]), features.dtype)
        self._labels = [xp.empty(rows, level.dtype) for level in labels]
        self._gram = xp.zeros((rows, rows))
        if old:
            now, then = (slice(at, at + self._filled) for at in (self._room, before))
            *arrays, gram = old
            for new, kept in zip((self._features, *self._labels), arrays):
                new[now] = kept[then]
            self._gram[now, now] = gram[then, then]
