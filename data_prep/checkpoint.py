"""What a build has to remember, beside its LMDBs, to go on after it was killed.

In the folder `state` of an unfinished build: `wanted.json`, which build it is; per split a
checkpoint, there only after both LMDBs have reached the disk, so that they hold its records;
`skipped.json`, the images that a build with --skip-bad leaves out. Every file is written beside
and renamed: it is whole or not there.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data_prep.common import files

SHARE = 0.05  # of the time may go into checkpoints


class Damaged(Exception):
    """The remains of a build are not what its checkpoint says, e.g. after a loss of power."""


@dataclass
class Checkpoint:
    """The state of one split. What comes after `count` records is made again."""

    count: int  # records in both LMDBs
    digests: list  # of the LMDBs' records, as in manifest.json
    total: np.ndarray  # float64 size x size x 3, whole numbers: sum of the distinct images' pixels
    images: bytearray  # findings.digest of each distinct image, in order
    uniform: list  # numbers of the records whose image has one color

    @classmethod
    def read(cls, path, size):
        """The one at path, or one of no records if there is none. Raises Damaged."""
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
    """Writes one split's checkpoints, and brings them to the disk in a thread of its own, one at a
    time, so that they take SHARE of the time, whatever the disk and the size.

    sync  a function: brings all that was committed to the disk
    """

    def __init__(self, path, sync):
        self._path, self._sync = path, sync
        self._thread = ThreadPoolExecutor(1)
        self._last, self._next = None, 0.0  # the last one's future; when the next is due

    def due(self):
        """Whether it is time for a checkpoint. Raises what the last one failed with."""
        if self._last is not None and not self._last.done():
            return False
        self.wait()
        return time.monotonic() >= self._next

    def begin(self, checkpoint):
        """Keep this Checkpoint, of what is committed now, once the last one is kept."""
        self.wait()
        start, new = time.monotonic(), files.beside_of(self._path)
        with files.open_new(new) as file:
            checkpoint.write(file)
        self._last = self._thread.submit(self._keep, new, start)

    def wait(self):
        """Wait until the last one is kept. Raises what it failed with."""
        if self._last is not None:
            self._last.result()

    def close(self):
        """Wait for the last one, whatever becomes of it; the LMDBs may be closed then."""
        self._thread.shutdown()

    def _keep(self, new, start):
        self._sync()
        files.publish(new, self._path)
        now = time.monotonic()
        self._next = now + (now - start) / SHARE
