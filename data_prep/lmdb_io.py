"""Writing and reading Caffe's LMDBs: for each split one of images and one of labels, key by key
alike.

Key: the record's number as 8 digits. Image: Datum with encoded=true, label = fine class. Labels:
Datum of h x 1 x 1 float_data (fine class, parent, ...), label = fine class; Caffe's Data layer
makes of it a blob of n x h x 1 x 1 that a Slice layer cuts into the levels, without any Python.
"""

import hashlib
from pathlib import Path

import lmdb
import numpy as np
from caffe.proto import caffe_pb2

from data_prep.cli import UserError

KEY = "{:08d}"
BATCH = 256  # records per transaction: some MB, so that memory stays bounded and commits are few
FIRST_MAP = 64 << 20  # bytes; doubled whenever full, because LMDB wants to know the size beforehand


def image_datum(encoded, label):
    return caffe_pb2.Datum(data=encoded, label=label, encoded=True).SerializeToString()


def label_datum(labels):
    datum = caffe_pb2.Datum(channels=len(labels), height=1, width=1, label=int(labels[0]))
    datum.float_data.extend(float(label) for label in labels)
    return datum.SerializeToString()


class Writer:
    """One LMDB, written in order of keys. `digest`: SHA-256 of all keys and values."""

    def __init__(self, path):
        self.path, self.count, self._batch, self._sha = path, 0, [], hashlib.sha256()
        # Not synced per transaction: a build that is cut off is thrown away whole; close() syncs.
        self._env = lmdb.open(str(path), map_size=FIRST_MAP, sync=False, metasync=False)

    def add(self, value):
        key = KEY.format(self.count).encode()
        add_to_digest(self._sha, key, value)
        self._batch.append((key, value))
        self.count += 1
        if len(self._batch) == BATCH:
            self._flush()

    def _flush(self):
        while self._batch:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value, append=True)
                self._batch = []
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])

    def close(self):
        """Write the rest and have it on the disk. The lock file goes: readers make their own."""
        self._flush()
        self._env.sync(True)
        self.abandon()
        (self.path / "lock.mdb").unlink(missing_ok=True)

    def abandon(self):
        self._env.close()

    @property
    def digest(self):
        return self._sha.hexdigest()


def add_to_digest(digest, key, value):
    """Feed one record (bytes) to a hash: that of all records, in order, is in manifest.json."""
    digest.update(key + len(value).to_bytes(8, "little") + value)


def items(path):
    """Yield (key, value) bytes of an LMDB in order of keys; UserError if it can't be read."""
    try:
        # Without a lock: folders are complete once they have their name, and may be read-only.
        with lmdb.open(str(path), readonly=True, lock=False, create=False) as env:
            # LMDB maps the file into memory: reading beyond its end would kill the process.
            pages = (Path(path) / "data.mdb").stat().st_size // env.stat()["psize"]
            if pages <= env.info()["last_pgno"]:
                raise lmdb.CorruptedError("the file is cut short")
            with env.begin() as transaction:
                yield from transaction.cursor()
    except lmdb.Error as error:
        raise UserError(
            f"{path} can't be read as an LMDB ({error}): build the data set again"
        ) from None


def parse_datum(value, what="a record"):
    """The Datum of a value; UserError, which says what it should have been, if it is none."""
    datum = caffe_pb2.Datum()
    try:
        datum.ParseFromString(value)
    except Exception:  # each of protobuf's implementations has its own DecodeError
        raise UserError(f"{what} is not a Datum: build the data set again") from None
    return datum


def write_mean(path, mean):
    """Write mean (float array 3 x height x width, BGR) as the binaryproto that Caffe reads."""
    blob = caffe_pb2.BlobProto(
        num=1, channels=mean.shape[0], height=mean.shape[1], width=mean.shape[2]
    )
    blob.data.extend(mean.astype("float32").ravel().tolist())
    path.write_bytes(blob.SerializeToString())


def read_mean(path):
    """float32 array 3 x height x width of a mean.binaryproto."""
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(path.read_bytes())
    return np.array(blob.data, np.float32).reshape(blob.channels, blob.height, blob.width)
