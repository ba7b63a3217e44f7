"""Cross-batch memory: the newest samples of earlier batches, for a loss over more than one batch.

X. Wang, H. Zhang, W. Huang, M. R. Scott, "Cross-batch memory for embedding learning", CVPR 2020:
while a network changes slowly, the features that it gave some batches ago still show where a class
is. They cost no pass through the network, and are constants: they have no gradient.

A metric loss takes the memory's samples after those of the batch, and `anchors`, the size of the
batch: the anchor of each of its terms (the class c of GLM, the sample i of a pair, the sample a of
a triplet) is in the batch, its other samples are anywhere.
"""

from python_layers.backend import array_module
from python_layers.pairwise import products

# Most samples of a memory: their products with each other take 2 GB.
LARGEST_CAPACITY = 16384


class SampleMemory:
    """A ring of the newest `capacity` samples: features as they were given, labels, and products of
    the features with each other, so that a pass computes only those of its batch.

    Takes (r x d + r x r) numbers, the products in float64, with r = capacity + the largest batch.
    Deterministic: the order of the kept samples is a function of the sizes of the batches.
    """

    def __init__(self, capacity):
        self.capacity = capacity
        self._features = None

    def join(self, features, labels):
        """(features, labels, gram) of the samples of a batch, followed by the kept ones.

        features: n x d.  labels: a list of n values per level.  gram: X X^T of the joint features,
        float64. All are views, valid until the next call. A batch with another number of dimensions
        or levels or another dtype empties the memory, whose samples can't be compared with it.
        """
        self._make_room(features, labels)
        self._batch = len(features)
        start, end = self._room - self._batch, self._room + self._filled
        self._features[start : self._room] = features
        for kept, given in zip(self._labels, labels):
            kept[start : self._room] = given
        joint, gram = self._features[start:end], self._gram[start:end, start:end]
        gram[: self._batch] = products(joint, self._batch)
        gram[self._batch :, : self._batch] = gram[: self._batch, self._batch :].T
        return joint, [kept[start:end] for kept in self._labels], gram

    def keep(self):
        """Keep the batch of the last `join`, in place of the oldest samples."""
        count = min(self._batch, self.capacity)
        first = min(count, self.capacity - self._next)
        # By columns, then by rows, so that the products within the batch come along.
        for array in (self._features, *self._labels, self._gram.T, self._gram):
            ring, batch = array[self._room :], array[self._room - count : self._room]
            ring[self._next : self._next + first] = batch[:first]
            ring[: count - first] = batch[first:]
        self._filled = min(max(self._filled, self._next + count), self.capacity)
        self._next = (self._next + count) % self.capacity

    def _make_room(self, features, labels):
        """Arrays of `room` rows for the batch, followed by `capacity` rows, the ring; the products
        have the same columns."""
        shape = features.shape[1], features.dtype, len(labels)
        same = self._features is not None and shape == self._shape
        if same and len(features) <= self._room:
            return
        old = [self._features, *self._labels, self._gram] if same else None
        if not same:
            self._shape, self._filled, self._next, self._room = shape, 0, 0, 0
        rows, old_room = len(features) + self.capacity, self._room
        self._room = len(features)
        xp = array_module(features)
        self._features = xp.empty((rows, features.shape[1]), features.dtype)
        self._labels = [xp.empty(rows, level.dtype) for level in labels]
        self._gram = xp.zeros((rows, rows))
        if old:
            ring, old_ring = (slice(at, at + self._filled) for at in (self._room, old_room))
            *arrays, gram = old
            for new, kept in zip((self._features, *self._labels), arrays):
                new[ring] = kept[old_ring]
            self._gram[ring, ring] = gram[old_ring, old_ring]
