"""A file of float32 rows that is written over hours and read again after any interruption."""

import os
import zlib

import numpy as np

from data_prep.common import files

CHECK = 4  # bytes after each row: its CRC-32, which a row that did not reach the disk fails


class RowFile:
    """Rows of `width` float32 values in a file, in order.

    path  of the file, which is made if it is missing. Rows after the first damaged one, such as a
          power failure leaves, are removed.
    """

    def __init__(self, path, width):
        self._path, self._width = path, width
        if not path.exists():
            files.write_whole(path, b"")
        self.count = self._intact()
        os.truncate(path, self.count * self._bytes)

    @property
    def _bytes(self):
        return 4 * self._width + CHECK

    def _intact(self):
        """Number of rows before the first damaged one."""
        count = 0
        with open(self._path, "rb") as file:
            while len(row := file.read(self._bytes)) == self._bytes:
                if zlib.crc32(row[:-CHECK]) != int.from_bytes(row[-CHECK:], "little"):
                    break
                count += 1
        return count

    def append(self, rows):
        """Append float32 rows, n x width, and sync them to the disk."""
        parts = [row.tobytes() for row in np.ascontiguousarray(rows, "<f4")]
        with open(self._path, "ab") as file:
            for part in parts:
                file.write(part + zlib.crc32(part).to_bytes(CHECK, "little"))
        files.sync(self._path)
        self.count += len(parts)

    def rows(self):
        """float32 array, count x width, mapped from the file."""
        raw = np.memmap(self._path, np.uint8, "r", shape=(self.count, self._bytes))
        return raw[:, :-CHECK].view("<f4")
