"""One split of a data set while it is written: both LMDBs in step, with checkpoints."""

import shutil
from contextlib import closing

import numpy as np

from data_prep import checkpoint, lmdb_io, pipeline
from data_prep.common import progress
from data_prep.common.errors import UserError
from data_prep.opencv import cv2

KINDS = ("images", "labels")  # of the two LMDBs of a split
# A transaction has about so many records or bytes: few commits, and bounded memory.
BATCH, BATCH_BYTES = 128, 16 << 20


class SplitWriter:
    """Writes <split>_images, <split>_labels and <split>.tsv in the folder partial/data.

    records  in order; one that comes again, in a later epoch, is copied from its first occurrence
    done     how many of them are in the LMDBs already

    Raises checkpoint.Damaged if the LMDBs are not what the split's checkpoint says.
    """

    def __init__(self, partial, split, records, hierarchy, options):
        self.split, self.records = split, records
        self._data, self._hierarchy, self._options = partial / "data", hierarchy, options
        self._path = partial / "state" / f"{split}.checkpoint"
        self._state = checkpoint.Checkpoint.read(self._path, options["size"])
        self._first = {}  # {name: number of the first record of that image}
        for number, record in enumerate(records):
            self._first.setdefault(record.name, number)
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
        """float64 size x size x 3, BGR: the sum of the images, each counted once."""
        return self._state.total

    @property
    def distinct(self):
        """How many different images the records are of."""
        return len(self._first)

    def write(self, jobs, bad):
        """Write the records that are not done.

        Unusable files are appended to bad, one line each; from the first on, files are only looked
        at, so that all of them are named at once.
        """
        if not self.done:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)
        label_datums = [lmdb_io.label_datum(labels) for labels in self._hierarchy.labels]
        writers = [
            lmdb_io.Writer(folder, self.done, sha)
            for folder, sha in zip(self._folders, self._hashes)
        ]
        keeper = checkpoint.Keeper(self._path, lambda: [writer.sync() for writer in writers])
        try:
            for record, datum, summed in self._datums(writers[0], jobs, bad):
                if bad:
                    continue
                writers[0].add(datum)
                writers[1].add(label_datums[record.label])
                if _full(writers[0], summed):
                    for writer in writers:
                        writer.commit()
                    if summed and keeper.due():
                        keeper.begin(self._now(writers))
            if not bad:
                for writer in writers:
                    writer.commit()
                keeper.begin(self._now(writers))
                keeper.wait()
        finally:
            keeper.close()
            for writer in writers:
                writer.close()

    def _datums(self, written, jobs, bad):
        """Yield (record, image Datum, summed) of the records that are not done.

        summed: whether the state's total is that of the records so far, so that a checkpoint can be
        made of it.
        """
        rest = range(self.done, len(self.records))
        fresh = [n for n in rest if self._first[self.records[n].name] == n]
        results = pipeline.loaded([self.records[n] for n in fresh], self._options, jobs)
        with (
            closing(results),
            progress.bar(self.split, "images", len(self.records), self.done) as bar,
        ):
            summed = True
            for number in rest:
                record, datum = self.records[number], None
                first = self._first[record.name]
                if first == number:
                    _, result = next(results)
                    if result.reason:
                        bad.append(f"{record.path}: {result.reason}")
                    datum, summed = result.datum, result.total is not None
                    if summed:
                        cv2.accumulate(result.total, self._state.total)
                elif not bad:
                    datum = written.value(first)
                yield record, datum, summed
                bar.update()

    def _now(self, writers):
        """The Checkpoint of what is committed."""
        self._state.count = writers[0].count
        self._state.digests = [writer.digest for writer in writers]
        return self._state

    def finish(self):
        """Write the split's table. Returns its entry in the manifest."""
        levels = "\t".join(f"{level}_id" for level in self._hierarchy.levels)
        with open(self._data / f"{self.split}.tsv", "w", encoding="utf-8") as listing:
            print(f"key\timage\t{levels}", file=listing)
            for number, record in enumerate(self.records):
                labels = self._hierarchy.labels[record.label]
                print(lmdb_io.KEY.format(number), record.name, *labels, sep="\t", file=listing)
        for folder in self._folders:  # readers make their own
            (folder / "lock.mdb").unlink(missing_ok=True)
        present = np.unique([record.label for record in self.records])
        return {
            "images": len(self.records),
            "distinct": self.distinct,
            "classes_present": [len(np.unique(ids)) for ids in self._hierarchy.labels[present].T],
            "sha256": dict(zip(KINDS, self._state.digests)),
        }


def _full(writer, summed):
    """Whether to commit: where a checkpoint can be made, as long as memory allows."""
    enough = writer.waiting >= BATCH or writer.pending >= BATCH_BYTES
    return enough and (summed or writer.pending >= 2 * BATCH_BYTES)
