"""From records to a finished data set folder: decode in threads, write in order, appear at once or
not at all.

Everything is made in `.<name>.partial` beside the target: `data`, which is renamed when it is
complete, and `state` (data_prep/checkpoint.py). A build that is killed leaves that folder, and the
next one of the same options and images goes on in it; a finished data set that is being replaced
stays in place until then.
"""

import fcntl
import json
import os
import shutil
import sys
from contextlib import closing, contextmanager

import lmdb

from data_prep import checkpoint, contact_sheet, lmdb_io, pipeline
from data_prep.common import files, progress
from data_prep.common.errors import WRITE_FAILURES, UserError
from data_prep.opencv import cv2
from data_prep.order import ordered
from data_prep.records import SPLITS, check_records
from data_prep.split_writer import KINDS, SplitWriter

FORMAT = 2  # of the folder; a data set of another format is built anew
BAD_SHOWN = 50  # names of unusable files printed
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
            raise UserError(f"another build is writing {out}: wait for it, or choose another --out")
        try:
            _tidy(out)
            yield
        finally:
            path.unlink()


def _tidy(out):
    """Take away what _publish leaves, also one that was killed between or after its renames."""
    old, partial = _beside(out, "old"), _beside(out, "partial")
    if old.exists():
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    if partial.exists() and not (partial / "data").exists():
        shutil.rmtree(partial)


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


def build(out, source, manifest, jobs, afresh=False):
    """Build the data set folder `out` (held by `locked`). Returns the finished manifest.

    Goes on with the remains of a build of the same manifest, unless `afresh`.
    """
    partial = _beside(out, "partial")
    if afresh and partial.exists():
        shutil.rmtree(partial)
    try:
        try:
            manifest = _fill(partial, source, manifest, jobs)
        except checkpoint.Damaged:
            print(f"what is left of the last build of {out} is damaged: starting anew")
            shutil.rmtree(partial)
            manifest = _fill(partial, source, manifest, jobs)
        _publish(partial, out)
    except UserError:  # of the images: other images make another build
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise
    except (OSError, lmdb.Error) as error:
        if isinstance(error, OSError) and error.errno not in WRITE_FAILURES:
            raise
        raise UserError(
            f"writing {out} failed ({error}): make room on the disk, then the same command goes on "
            f"from here; or delete {partial}"
        ) from error
    return manifest


def _fill(partial, source, manifest, jobs):
    """Make, or go on making, all of a data set in partial/data. Returns the manifest."""
    data, state = partial / "data", partial / "state"
    wanted = json.dumps(manifest).encode()
    if not (state / "wanted.json").exists() or (state / "wanted.json").read_bytes() != wanted:
        if partial.exists():
            shutil.rmtree(partial)
        state.mkdir(parents=True)
        data.mkdir()
        files.write_whole(state / "wanted.json", wanted)
    records = _prepared(source, state / "prepared", jobs)
    options, manifest, bad = manifest["options"], {**manifest, "splits": {}}, []
    if options["skip_bad"]:
        manifest["skipped"] = _bad_images(state, records, options, jobs)
        records = _without(records, manifest["skipped"], source.hierarchy)
    splits = []
    for split in SPLITS:
        part = [record for record in records if record.split == split]
        if split == "train":
            part, facts = ordered(part, options, source.hierarchy)
        splits.append(SplitWriter(partial, split, part, source.hierarchy, options))
    done, total = (sum(counts) for counts in zip(*((one.done, len(one.records)) for one in splits)))
    if done:
        print(f"resuming at {done} of {total} images", flush=True)
    for one in splits:
        one.write(jobs, bad)
    if bad:
        raise UserError(
            f"{len(bad)} of {len(records)} images can't be used, nothing was built; replace these "
            f"files, or leave them out with --skip-bad:{_listed(bad)}"
        )
    for one in splits:
        manifest["splits"][one.split] = one.finish()
    manifest["splits"]["train"]["order"] = facts
    total, distinct = splits[0].total, splits[0].distinct
    lmdb_io.write_mean(data / "mean.binaryproto", total.transpose(2, 0, 1), distinct)
    means = total.mean(axis=(0, 1)) / distinct
    manifest["mean_bgr"] = [round(float(value), 3) for value in means]
    (data / "hierarchy.tsv").write_text(source.hierarchy.text(), encoding="utf-8")
    contact_sheet.write(data, source.hierarchy, options["seed"])
    manifest["checksums"] = {file: files.sha256(data / file) for file in CHECKSUMMED}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (data / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _prepared(source, folder, jobs):
    """The source's records. What a reader makes for them, it makes in an empty folder each time."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    records = source.prepare(folder, jobs)
    check_records(records, source.hierarchy)
    return records


def _bad_images(state, records, options, jobs):
    """[{"image": name, "reason": ...}] of the records that can't be used, all looked at once."""
    known = state / "skipped.json"
    if not known.exists():
        found = []
        with closing(pipeline.loaded(records, options, jobs, encode=False)) as results:
            for record, result in progress.each(results, "look", "images", len(records)):
                if result.reason:
                    found.append({"image": record.name, "reason": result.reason})
        files.write_whole(known, json.dumps(found).encode())
    return json.loads(known.read_bytes())


def _without(records, skipped, hierarchy):
    """The records but for the skipped images. Says which they are and what they leave empty;
    UserError if that is a split.
    """
    gone = {entry["image"] for entry in skipped}
    if not gone:
        return records
    lines = [f"{entry['image']}: {entry['reason']}" for entry in skipped]
    print(f"left out: {len(gone)} of {len(records)} images can't be used:{_listed(lines)}")
    kept = [record for record in records if record.name not in gone]
    check_records(kept, hierarchy)
    for split in SPLITS:
        before, after = ({r.label for r in part if r.split == split} for part in (records, kept))
        if before - after:
            names = [hierarchy.names[0][label] for label in sorted(before - after)]
            print(f"warning: these classes have no {split} images left:{_listed(names)}")
    return kept


def _listed(lines):
    """The lines as a list below a sentence, shortened."""
    more = [f"... and {len(lines) - BAD_SHOWN} more"] if len(lines) > BAD_SHOWN else []
    return "\n  " + "\n  ".join(lines[:BAD_SHOWN] + more)


def _beside(out, what):
    return out.parent / f".{out.name}.{what}"


def _publish(partial, out):
    """Put the finished folder in place of the old one. Its contents reach the disk first."""
    data, old = partial / "data", _beside(out, "old")
    for path in sorted(data.rglob("*")) + [data]:
        files.sync(path)
    if out.exists():
        out.rename(old)
    data.rename(out)
    _tidy(out)
