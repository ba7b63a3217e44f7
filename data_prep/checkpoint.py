"""The state, besides its LMDBs, that a build needs to resume after it was killed.

The folder `state` of an unfinished build holds `wanted.json`, which identifies the build; a
checkpoint per split, written only once both LMDBs are synced, so that they hold its records; and
`skipped.json`, the images that a build with --skip-bad leaves out. Every file is written under a
temporary name and renamed, so that it is complete or absent.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data_prep.common import files

SHARE = 0.05  # largest share of the running time spent on checkpoints


class Damaged(Exception):
    """An unfinished build does not match its checkpoint, e.g. after a power failure."""


@dataclass
class Checkpoint:
    """The state of one split. Records after the first `count` are built again."""

    count: int  # records in both LMDBs
    digests: list  # of the LMDBs' records, as in manifest.json
    total: np.ndarray  # float64 size x size x 3, whole numbers: sum of the distinct images' pixels
    images: bytearray  # findings.digest of each distinct image, in order
    uniform: list  # numbers of the records whose image has one color

    @classmethod
    def read(cls, path, size):
        """The checkpoint at path, or an empty one if the file is missing. Raises Damaged."""
        try:
            head, _, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return cls(0, [], np.zeros((size, size, 3)), bytearray(), [])
        try:
            head, end = json.loads(head), 8 * size * size * 3
            total = np.frombuffer(data[:end], np.float64).reshape(size, size, 3).copy()
            images = bytearray(data[end:])
            if len(images) != head["images"]:
                raise ValueError
            return cls(head["count"], head["digests"], total, images, head["uniform"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(path) from error

    def write(self, file):
        """Write it to a binary file."""
        head = {"count": self.count, "digests": self.digests}
        head |= {"images": len(self.images), "uniform": self.uniform}
        file.write(json.dumps(head).encode() + b"\n")
        file.write(self.total.data)
        file.write(self.images)


class Keeper:
    """Writes and syncs one split's checkpoints in a separate thread, one at a time.

    They take at most SHARE of the running time, however slow the disk and large the data set.

    sync  function that syncs everything committed so far
    """

    def __init__(self, path, sync):
        self._path, self._sync = path, sync
        self._thread = ThreadPoolExecutor(1)
        self._last, self._next = None, 0.0  # the last one's future; when the next is due

    def due(self):
        """Whether it is time for a checkpoint. Raises the error of the last one, if it failed."""
        if self._last is not None and not self._last.done():
            return False
        self.wait()
        return time.monotonic() >= self._next

    def begin(self, checkpoint):
        """Start to write this Checkpoint of the committed records; waits for the last one."""
        self.wait()
        start, new = time.monotonic(), files.beside_of(self._path)
        with files.open_new(new) as file:
            checkpoint.write(file)
        self._last = self._thread.submit(self._keep, new, start)

    def wait(self):
        """Wait until the last checkpoint is on the disk. Raises its error, if it failed."""
        if self._last is not None:
            self._last.result()

    def close(self):
        """Wait for the last checkpoint, ignoring errors; the LMDBs may be closed afterwards."""
        self._thread.shutdown()

    def _keep(self, new, start):
        self._sync()
        files.publish(new, self._path)
        now = time.monotonic()
        self._next = now + (now - start) / SHARE
