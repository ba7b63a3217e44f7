"""Writes and reads Caffe's LMDBs: per split one of images and one of labels, with the same keys.

Key: the record's number as 8 digits. Image: Datum with label = fine class, holding an encoded file
(encoded=true) or raw pixels, channel by channel; in a set of features (data_prep/feature_set.py) a
feature of C x 1 x 1 instead. Labels: Datum of h x 1 x 1 float_data (fine class,
parent, ...), label = fine class. Caffe's Data layer turns it into a blob of n x h x 1 x 1, which a
Slice layer splits into the levels, without any Python.
"""

import hashlib
import io
import itertools
from pathlib import Path

import lmdb
import numpy as np

from data_prep import image_files, images, lmdb_pages
from data_prep.caffe_proto import caffe_pb2
from data_prep.common.errors import UserError

KEY = "{:08d}"
FIRST_MAP = 64 << 20  # bytes; doubled when full, because LMDB needs a size in advance
# Pages of a mapped LMDB count as memory of the process once they were read: the file is mapped
# again after this many bytes.
REMAP = 32 << 20


def stored(image, encoding):
    """The bytes that store an image (uint8 height x width x 3, BGR) in one of images.ENCODINGS."""
    if images.ENCODINGS[encoding] is not None:
        return images.encode(image, encoding)
    return image.transpose(2, 0, 1).tobytes()


def image_datum(data, shape, encoding, label):
    """The bytes of an image's Datum; data: the bytes that `stored` returned for the image.

    shape: height, width, channels of the image.
    """
    datum = caffe_pb2.Datum(data=data, encoded=images.ENCODINGS[encoding] is not None, label=label)
    if not datum.encoded:
        datum.height, datum.width, datum.channels = shape
    return datum.SerializeToString()


def datum_image(datum):
    """uint8 height x width x 3, BGR, of an image's Datum; raises ImageError if it has no image."""
    if datum.encoded:
        image_files.header(io.BytesIO(datum.data)).check_memory()
        return images.decode(datum.data)
    shape = datum.channels, datum.height, datum.width
    if shape[0] != 3 or min(shape) < 1 or len(datum.data) != np.prod(shape, dtype=object):
        raise images.ImageError("neither an encoded image nor raw pixels of 3 channels")
    return np.frombuffer(datum.data, np.uint8).reshape(shape).transpose(1, 2, 0).copy()


def feature_datum(values, label):
    """The bytes of a feature's Datum, C x 1 x 1; values: float32 C, such as a net computes."""
    datum = caffe_pb2.Datum(channels=len(values), height=1, width=1, label=int(label))
    datum.float_data.extend(values.tolist())
    return datum.SerializeToString()


def datum_feature(datum):
    """float32 C of a feature's Datum; raises ValueError if it has none, or nan or inf in it."""
    values = np.array(datum.float_data, np.float32)
    if not len(values) or (datum.channels, datum.height, datum.width) != (len(values), 1, 1):
        raise ValueError("the record is not a feature of C x 1 x 1")
    if not np.isfinite(values).all():
        raise ValueError("the feature holds nan or inf")
    return values


def label_datum(labels):
    datum = caffe_pb2.Datum(channels=len(labels), height=1, width=1, label=int(labels[0]))
    datum.float_data.extend(float(label) for label in labels)
    return datum.SerializeToString()


class Writer:
    """One LMDB, written in order of keys. `digest`: SHA-256 of all keys and values committed.

    count, sha  number of records to keep in an existing LMDB of an interrupted build, and what
                `hashed` returns for them; records after them are removed
    """

    def __init__(self, path, count=0, sha=None):
        self.count, self.pending = count, 0
        self._batch, self._sha, self._read = [], sha or hashlib.sha256(), 0
        # Synced when the caller asks for it, not per transaction.
        self._env = lmdb.open(str(path), map_size=FIRST_MAP, sync=False, metasync=False)
        self._transact(self._trim)

    def _trim(self, transaction):
        cursor = transaction.cursor()
        while cursor.last() and cursor.key() >= KEY.format(self.count).encode():
            cursor.delete()

    def add(self, value):
        """Append a record, which stays in memory (`pending` bytes) until commit()."""
        key = KEY.format(self.count).encode()
        self._batch.append((key, value))
        self.pending += len(value)
        self.count += 1

    def value(self, number):
        """The value (bytes) of a record that was added."""
        waiting = number - (self.count - len(self._batch))
        if waiting >= 0:
            return self._batch[waiting][1]
        with self._env.begin() as transaction:
            value = transaction.get(KEY.format(number).encode())
        self._read += len(value)
        return value

    def commit(self):
        """Write the pending records to the LMDB, in one transaction, and add them to the digest.

        A single call writes all of them, since each call releases the GIL, and getting it back from
        the decoding threads takes time.
        """
        self._transact(lambda transaction: transaction.cursor().putmulti(self._batch, append=True))
        add_to_digest(self._sha, self._batch)
        self._batch, self.pending = [], 0

    def _transact(self, write):
        """Run write(transaction), doubling the map until the records fit."""
        if self._read > REMAP:
            self._env.set_mapsize(self._env.info()["map_size"])
            self._read = 0
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    return write(transaction)
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])

    def sync(self):
        """Sync all committed records to the disk."""
        self._env.sync(True)

    def close(self):
        """Close the LMDB; uncommitted records are lost."""
        self._env.close()

    @property
    def waiting(self):
        """Number of records that are not yet committed."""
        return len(self._batch)

    @property
    def digest(self):
        return self._sha.hexdigest()


def add_to_digest(digest, records):
    """Add records [(key, value)] (bytes) to a hash; manifest.json has the hash of all, in order."""
    parts = ((key, len(value).to_bytes(8, "little"), value) for key, value in records)
    digest.update(b"".join(itertools.chain.from_iterable(parts)))


def hashed(path, count):
    """A SHA-256 object of the first `count` records; raises UserError if the LMDB has fewer."""
    sha, found = hashlib.sha256(), 0
    for item in itertools.islice(items(path) if count else (), count):
        add_to_digest(sha, [item])
        found += 1
    if found < count:
        raise UserError(f"{path} has {found} records, not {count}")
    return sha


def items(path, keys=None):
    """Yield (key, value) bytes of an LMDB in order of keys.

    keys: yield only these (bytes), in the order given; missing ones are skipped. Raises UserError
    if the LMDB can't be read.
    """
    try:
        lmdb_pages.check(Path(path) / "data.mdb")
        # No lock is needed: a folder is complete once it has its name, and may be read-only.
        with lmdb.open(str(path), readonly=True, lock=False, create=False) as env:
            start = b""
            while start is not None:
                found = _some_items(env, start) if keys is None else _chosen_items(env, keys)
                start = yield from found
                env.set_mapsize(env.info()["map_size"])
    except OSError as error:
        raise UserError(f"{path} can't be read as an LMDB: {error.strerror}") from None
    except (lmdb.Error, ValueError) as error:
        raise UserError(
            f"{path} can't be read as an LMDB ({error}): build the data set again"
        ) from None


def _some_items(env, start):
    """Yield about REMAP bytes of records from the key `start` on. Returns the next key, or None."""
    read = 0
    with env.begin() as transaction:
        cursor = transaction.cursor()
        if not cursor.set_range(start):
            return None
        for key, value in cursor:
            if read > REMAP:
                return key
            yield key, value
            read += len(value)


def _chosen_items(env, keys):
    with env.begin() as transaction:
        for key in keys:
            value = transaction.get(key)
            if value is not None:
                yield key, value


def key_text(key, path):
    """The key (bytes) of a record as text; raises UserError for a key that no build writes."""
    try:
        return key.decode("ascii")
    except UnicodeDecodeError:
        raise UserError(f"{path} has the key {key[:20]!r}: build the data set again") from None


def parse_datum(value, what="a record"):
    """The Datum of a value; raises UserError, which begins with `what`, if it is not a Datum."""
    datum = caffe_pb2.Datum()
    try:
        datum.ParseFromString(value)
    except Exception:  # each of protobuf's implementations has its own DecodeError
        raise UserError(f"{what} is not a Datum: build the data set again") from None
    return datum


def write_mean(path, total, count):
    """Write total / count (float array 3 x height x width, BGR) as Caffe's binaryproto."""
    blob = caffe_pb2.BlobProto(
        num=1, channels=total.shape[0], height=total.shape[1], width=total.shape[2]
    )
    for channel in total:
        for row in channel:  # row by row, because Python numbers take eight times the memory
            blob.data.extend((row / count).astype("float32").tolist())
    path.write_bytes(blob.SerializeToString())


def read_mean(path):
    """float32 array 3 x height x width of a mean.binaryproto."""
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(path.read_bytes())
    return np.array(blob.data, np.float32).reshape(blob.channels, blob.height, blob.width)
