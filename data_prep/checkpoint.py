"""What a build has to remember, beside its LMDBs, to go on after it was killed.

In the folder `state` of an unfinished build: `wanted.json`, which build it is; per split a
checkpoint, written after both LMDBs have reached the disk, so that they hold at least its records;
`skipped.json`, the images that a build with --skip-bad leaves out. Every file is written beside
and renamed: it is whole or not there.
"""

import json
import os
import time
from dataclasses import dataclass

import numpy as np

SHARE = 0.05  # of the time may go into checkpoints


class Damaged(Exception):
    """The remains of a build are not what its checkpoint says, e.g. after a loss of power."""


@dataclass
class Checkpoint:
    """The state of one split. What comes after `count` records is made again."""

    count: int  # records in both LMDBs
    digests: list  # of the LMDBs' records, as in manifest.json
    total: np.ndarray  # float64 size x size x 3, whole numbers: sum of the distinct images' pixels

    @classmethod
    def read(cls, path, size):
        """The one at path, or one of no records if there is none. Raises Damaged."""
        try:
            head, _, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return cls(0, [], np.zeros((size, size, 3)))
        try:
            head = json.loads(head)
            total = np.frombuffer(data, np.float64).reshape(size, size, 3).copy()
            return cls(head["count"], head["digests"], total)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(path) from error

    def write(self, path):
        head = json.dumps({"count": self.count, "digests": self.digests})
        write_whole(path, head.encode() + b"\n" + self.total.tobytes())


class Pace:
    """Says when the next checkpoint is due: so that they take SHARE of the time, whatever the
    disk and the size.
    """

    def __init__(self):
        self._due = 0.0

    def due(self):
        return time.monotonic() >= self._due

    def took(self, start):
        """A checkpoint was written, begun at time.monotonic() = start."""
        now = time.monotonic()
        self._due = now + (now - start) / SHARE


def write_whole(path, data):
    """Write a file (bytes) so that it has its name only when it is on the disk."""
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path):
    """The value in a JSON file; None where there is no such file, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
