"""From records to a finished data set folder: decode in threads, write in order, appear at once or
not at all.

Everything is made in `.<name>.partial` beside the target and renamed when it is complete. A build
that is killed leaves that folder, which the next build throws away; a finished data set that is
being replaced stays in place until then.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from data_prep import contact_sheet, images, lmdb_io
from data_prep.cli import UserError
from data_prep.records import SPLITS, check_records, ordered

FORMAT = 1  # of the folder; a data set of another format is built anew
BAD_SHOWN = 50  # names of unusable files printed
KINDS = ("images", "labels")  # of the two LMDBs of a split
CHECKSUMMED = ("hierarchy.tsv", "mean.binaryproto", "train.tsv", "test.tsv")


@contextmanager
def locked(out):
    """Hold the right to build `out`; a second build is refused (UserError)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = _beside(out, "lock")
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Where another build has just ended and removed this very file, it locks nobody out.
            mine = path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except BlockingIOError:
            mine = False
        if not mine:
            raise UserError(
                f"another build is writing {out}: wait for it, or choose another --out"
            )
        try:
            old = _beside(out, "old")
            if old.exists() and not out.exists():  # killed between the two renames of _publish
                old.rename(out)
            yield
        finally:
            path.unlink()


def is_current(out, wanted):
    """Whether `out` holds a finished build of exactly these options and this source.

    Raises UserError if `out` is a folder that no build made: it would be replaced.
    """
    if not out.exists():
        return False
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        parts = [f"{split}_{kind}/data.mdb" for split in SPLITS for kind in KINDS]
        whole = all((out / file).is_file() for file in [*parts, *CHECKSUMMED])
        return whole and all(manifest[key] == value for key, value in wanted.items())
    except (OSError, ValueError, KeyError, TypeError):
        if (out / "manifest.json").exists() or (out.is_dir() and not any(out.iterdir())):
            return False
        raise UserError(f"{out} exists and is not a built data set: choose another --out") from None


def wanted_manifest(name, source, options):
    """The part of manifest.json that is known before the build; decides if one is needed."""
    return {
        "format": FORMAT,
        "name": name,
        "fingerprint": source.fingerprint,
        "levels": [
            {"name": level, "classes": size}
            for level, size in zip(source.hierarchy.levels, source.hierarchy.sizes)
        ],
        "options": {**options, **source.options},
        "versions": {
            "opencv": cv2.__version__,
            "lmdb": ".".join(map(str, lmdb.version())),
            **source.versions,
        },
    }


def build(out, source, manifest, jobs):
    """Build the data set folder `out` (held by `locked`). Returns the finished manifest."""
    partial = _beside(out, "partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        manifest = _fill(partial, source, manifest, jobs)
        _publish(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, (OSError, lmdb.Error)):
            raise UserError(f"writing {out} failed ({error}): is the disk full?") from error
        raise
    return manifest


def _fill(folder, source, manifest, jobs):
    """Make everything that belongs to a data set in a new folder. Returns the manifest."""
    work = folder / "work"
    work.mkdir(parents=True)
    records = source.prepare(work, jobs)
    check_records(records, source.hierarchy)
    options, manifest, bad = manifest["options"], {**manifest, "splits": {}}, []
    for split in SPLITS:
        part = [record for record in records if record.split == split]
        part = ordered(part, options["order"] if split == "train" else "listed", options["seed"])
        entry, mean = _write_split(folder, split, part, source.hierarchy, options, jobs, bad)
        manifest["splits"][split] = entry
        if split == "train":
            lmdb_io.write_mean(folder / "mean.binaryproto", mean.transpose(2, 0, 1))
            manifest["mean_bgr"] = [round(float(value), 3) for value in mean.mean(axis=(0, 1))]
    if bad:
        more = [f"... and {len(bad) - BAD_SHOWN} more"] if len(bad) > BAD_SHOWN else []
        raise UserError(
            f"{len(bad)} of {len(records)} images can't be used, nothing was built; replace these "
            "files:\n  " + "\n  ".join(bad[:BAD_SHOWN] + more)
        )
    shutil.rmtree(work)
    (folder / "hierarchy.tsv").write_text(source.hierarchy.text(), encoding="utf-8")
    contact_sheet.write(folder, source.hierarchy, options["seed"])
    manifest["checksums"] = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for file in CHECKSUMMED
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _write_split(folder, split, records, hierarchy, options, jobs, bad):
    """Write both LMDBs and <split>.tsv. Returns the split's manifest entry and the mean image.

    Unusable files are appended to bad, one line each; from the first on, files are only looked at,
    so that all of them are named at once.
    """
    size = options["size"]
    total = np.zeros((size, size, 3))
    writers = [lmdb_io.Writer(folder / f"{split}_{kind}") for kind in KINDS]
    try:
        with open(folder / f"{split}.tsv", "w", encoding="utf-8") as listing:
            levels = "\t".join(f"{level}_id" for level in hierarchy.levels)
            print(f"key\timage\t{levels}", file=listing)
            for record, (image, encoded, reason) in _decoded(records, split, options, jobs):
                if reason:
                    bad.append(f"{record.path}: {reason}")
                if bad:
                    continue
                key, labels = lmdb_io.KEY.format(writers[0].count), hierarchy.labels[record.label]
                print(key, record.name, *labels, sep="\t", file=listing)
                cv2.accumulate(images.centre(image, size), total)
                writers[0].add(lmdb_io.image_datum(encoded, record.label))
                writers[1].add(lmdb_io.label_datum(labels))
        for writer in writers:
            writer.close()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    present = [
        int(np.unique(hierarchy.labels[[r.label for r in records], j]).size)
        for j in range(len(hierarchy.levels))
    ]
    entry = {
        "images": len(records),
        "classes_present": present,
        "sha256": {"images": writers[0].digest, "labels": writers[1].digest},
    }
    return entry, total / len(records)


def _decoded(records, split, options, jobs):
    """Yield (record, (image, encoded bytes, None) or (None, None, reason)) in order.

    OpenCV lets go of Python's lock while it works, so threads do. At most 8 images per thread are
    in memory at a time.
    """

    def work(record):
        try:
            image = images.without_footer(images.read(record.path), record.footer)
            if record.box:
                image = images.crop(image, record.box)
            image = images.resize(image, options["size"], options["resize"])
            return image, images.encode(image, options["encoded"]), None
        except images.ImageError as error:
            return None, None, str(error)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image per thread, instead of all threads on one image
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting, rest = deque(), iter(records)
        with tqdm(total=len(records), desc=split, unit=" images") as bar:
            while True:
                while len(waiting) < 8 * jobs and (record := next(rest, None)) is not None:
                    waiting.append((record, pool.submit(work, record)))
                if not waiting:
                    break
                record, future = waiting.popleft()
                yield record, future.result()
                bar.update()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads)


def _beside(out, what):
    return out.parent / f".{out.name}.{what}"


def _publish(partial, out):
    """Put the finished folder in place of the old one. Its contents reach the disk first."""
    for path in sorted(partial.rglob("*")) + [partial]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = _beside(out, "old")
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    if old.exists():
        shutil.rmtree(old)
