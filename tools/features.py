"""The features of an evaluation's images, on the disk: NAME_features.npy beside NAME.json.

A float32 array N x D in NumPy's format, in the order of the table of predictions. It is written
batch by batch and read as a memory map, as that of a bilinear net has a megabyte an image.
"""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError

MAGIC = b"\x93NUMPY"


def path_of(result):
    """Path of the features that belong to the result `result` (NAME.json)."""
    return Path(result).with_name(f"{Path(result).stem}_features.npy")


def is_features(path):
    """Whether a file begins as one of features."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Writer:
    """Writes a file of `images` features next to its final path, which it takes with `publish`."""

    def __init__(self, path, images):
        self.path, self.beside = path, files.beside_of(path)
        self._images, self._file = images, files.open_new(self.beside)
        self._begun = False

    def add(self, features):
        """Append features, n x D."""
        if not self._begun:
            self._begun = True
            kind = np.lib.format.dtype_to_descr(np.dtype("<f4"))
            shape = (self._images, features.shape[1])
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(np.ascontiguousarray(features, "<f4").tobytes())

    def read(self):
        """The array of all features, a memory map; nothing can be added any more."""
        self._file.close()
        return np.load(self.beside, mmap_mode="r", allow_pickle=False)

    def publish(self):
        """Give the file its final name; returns its SHA-256."""
        self._file.close()
        found = files.sha256(self.beside)
        files.publish(self.beside, self.path)
        return found

    def remove(self):
        """Close and remove the file, unless it is published."""
        self._file.close()
        self.beside.unlink(missing_ok=True)


@contextmanager
def writer(path, images):
    """A Writer whose unpublished file is removed at the end."""
    files.make_way(path)
    one = Writer(path, images)
    try:
        yield one
    finally:
        one.remove()


def read(result_path, result):
    """The features (memory map, N x D) of a result; None if it has none or their file is missing.

    Raises UserError if the file is not the one that was written with the result.
    """
    path = path_of(result_path)
    if result.features_sha256 is None or not path.is_file():
        return None
    if files.sha256(path) != result.features_sha256:
        raise UserError(
            f"{path} is not the file that {result_path} was written with: evaluate again"
        )
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} can't be read: {error}: evaluate again") from None
    if found.ndim != 2 or found.dtype != np.float32 or len(found) != result.images:
        raise UserError(f"{path} does not have a feature for each image: evaluate again")
    return found
