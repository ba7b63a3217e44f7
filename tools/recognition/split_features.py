"""A blob of a solver's own test net for every image of a split, read by Caffe's Data layers."""

import numpy as np

from data_prep.common.errors import UserError
from tools import caffe_errors, solver_net
from tools.recognition import trained


class SplitFeatures:
    """The images of a split, and what a net computes of them.

    keys: N; labels: int64, N x h; folder: of the data set; blob: its name.
    """

    def __init__(self, solver, weights, split, blob, batch):
        """blob: None: the feature. Raises UserError."""
        message = solver_net.read_solver(solver)
        self._scoring = solver_net.scoring_net(message, split, batch)
        self.blob = blob or trained.feature_of(solver_net.read_net(message), self._scoring.stages)
        if self.blob is None:
            raise UserError(f"net {message.net} has no feature that is known: give --blob")
        self.folder = self._scoring.images.parent
        self.keys, self.labels = solver_net.read_labels(self._scoring)
        self._net = solver_net.load(self._scoring, weights)
        if self.blob not in self._net.blobs:
            raise UserError(
                f"the classifiers of net {message.net} depend on no blob {self.blob!r}; these "
                f"there are: {', '.join(self._net.blobs)}"
            )

    def batches(self):
        """Yield (keys, labels, float32 n x ...) per batch, in the order of the LMDB."""
        size = self._scoring.batch
        for start in range(0, len(self.keys), size):
            keys, labels = self.keys[start : start + size], self.labels[start : start + size]
            with caffe_errors.refusals(f"Caffe can't compute {self._scoring.images}"):
                self._net.forward()
            found = self._net.blobs["label"].data[: len(keys)]
            if not np.array_equal(found.reshape(labels.shape), labels):
                raise UserError(
                    f"Caffe does not read {self._scoring.labels} in the order of its keys: build "
                    "the data set again"
                )
            yield keys, labels, self._net.blobs[self.blob].data[: len(keys)].copy()
