"""Writes one split of a data set: both LMDBs in step, with checkpoints."""

import shutil
from contextlib import closing

import numpy as np

from data_prep import checkpoint, findings, lmdb_io, pipeline
from data_prep.common import progress
from data_prep.common.errors import UserError
from data_prep.manifest import KINDS, Split
from data_prep.opencv import cv2

# Records and bytes per transaction, approximately: few commits, and bounded memory.
BATCH, BATCH_BYTES = 128, 16 << 20


class SplitWriter:
    """Writes <split>_images, <split>_labels and <split>.tsv in the folder partial/data.

    records  in order; an image repeated at the same size is copied from its first occurrence
    done     number of records already in the LMDBs

    Raises checkpoint.Damaged if the LMDBs do not match the split's checkpoint.
    """

    def __init__(self, partial, split, records, hierarchy, options):
        self.split, self.records = split, records
        self._data, self._hierarchy, self._options = partial / "data", hierarchy, options
        self._path = partial / "state" / f"{split}.checkpoint"
        self._state = checkpoint.Checkpoint.read(self._path, options.size)
        self._first = {}  # {(name, size): number of the first record of that image}
        for number, record in enumerate(records):
            self._first.setdefault((record.name, record.size), number)
        self._label_datums = [lmdb_io.label_datum(labels) for labels in hierarchy.labels]
        self._folders = [self._data / f"{split}_{kind}" for kind in KINDS]
        try:
            self._hashes = [lmdb_io.hashed(folder, self.done) for folder in self._folders]
        except UserError as error:
            raise checkpoint.Damaged(split) from error
        if self.done and [each.hexdigest() for each in self._hashes] != self._state.digests:
            raise checkpoint.Damaged(split)

    @property
    def done(self):
        return self._state.count

    @property
    def total(self):
        """float64 size x size x 3, BGR: the sum of the distinct images."""
        return self._state.total

    @property
    def images(self):
        """A findings.Images of the images at the build's own size, of the records done."""
        first = [
            self.records[number]
            for (_, size), number in self._first.items()
            if size in (None, self._options.size)
        ]
        return findings.Images(
            self.split,
            [record.name for record in first],
            [record.label for record in first],
            self._state.images,
            [self.records[number].name for number in self._state.uniform],
        )

    @property
    def distinct(self):
        """Number of distinct images among the records."""
        return len({name for name, _ in self._first})

    def write(self, jobs, bad):
        """Write the records that are not done.

        Unusable files are appended to bad, one line each. After the first one, files are only
        checked, so that all of them are reported at once.
        """
        if not self.done:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)
        writers = [
            lmdb_io.Writer(folder, self.done, sha)
            for folder, sha in zip(self._folders, self._hashes)
        ]
        keeper = checkpoint.Keeper(self._path, lambda: [writer.sync() for writer in writers])
        chunks = pipeline.chunks(self.records, self._options, jobs, self.done)
        shown = progress.bar(self.split, "images", len(self.records), self.done)
        try:
            with closing(chunks), shown:
                for chunk in chunks:
                    reasons = [image.reason if image else None for image in chunk.images]
                    bad += [
                        f"{record.path}{record.row and f' ({record.row})'}: {reason}"
                        for record, reason in zip(chunk.records, reasons)
                        if reason
                    ]
                    if not bad:
                        self._add(chunk, writers)
                        if writers[0].waiting >= BATCH or writers[0].pending >= BATCH_BYTES:
                            self._commit(writers)
                            if keeper.due():
                                keeper.begin(self._state)
                    shown.update(len(chunk.records))
            if not bad:
                self._commit(writers)
                keeper.begin(self._state)
                keeper.wait()
        finally:
            keeper.close()
            for writer in writers:
                writer.close()

    def _add(self, chunk, writers):
        """Add a chunk's records to both LMDBs, and the facts of its images to the state."""
        state = self._state
        for record, image in zip(chunk.records, chunk.images):
            number = self._first[record.name, record.size]
            if image is None:
                datum = writers[0].value(number)
            else:
                datum = image.datum
                if record.size in (None, self._options.size):
                    state.images += image.digest
                    if image.uniform:
                        state.uniform.append(number)
            writers[0].add(datum)
            writers[1].add(self._label_datums[record.label])
        cv2.accumulate(chunk.total, state.total)

    def _commit(self, writers):
        """Commit pending records to both LMDBs; the state then matches a checkpoint."""
        for writer in writers:
            writer.commit()
        self._state.count = writers[0].count
        self._state.digests = [writer.digest for writer in writers]

    def finish(self):
        """Write the split's table. Returns its manifest.Split."""
        write_listing(self._data / f"{self.split}.tsv", self._hierarchy, self.records)
        for folder in self._folders:  # readers make their own
            (folder / "lock.mdb").unlink(missing_ok=True)
        present = np.unique([record.label for record in self.records])
        return Split(
            images=len(self.records),
            distinct=self.distinct,
            classes_present=tuple(len(np.unique(ids)) for ids in self._hierarchy.labels[present].T),
            sha256=dict(zip(KINDS, self._state.digests)),
        )


def write_listing(path, hierarchy, records):
    """Write a split's table: key, name and labels of each record (which has a name and a label)."""
    levels = "\t".join(f"{level}_id" for level in hierarchy.levels)
    with open(path, "w", encoding="utf-8") as listing:
        print(f"key\timage\t{levels}", file=listing)
        for number, record in enumerate(records):
            labels = hierarchy.labels[record.label]
            print(lmdb_io.KEY.format(number), record.name, *labels, sep="\t", file=listing)
