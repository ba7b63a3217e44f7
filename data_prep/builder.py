"""Builds a data set folder from records: decodes in threads, writes in order, publishes atomically.

The build works in `.<name>.partial` beside the target: `data`, which is renamed when complete, and
`state` (data_prep/checkpoint.py). A killed build leaves that folder, and the next build with the
same options and images resumes in it. A data set that is being replaced stays in place until then.
"""

import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import lmdb

from data_prep import (
    checkpoint,
    contact_sheet,
    control,
    findings,
    lmdb_io,
    manifest as manifests,
    pipeline,
)
from data_prep.common import files, progress, typed
from data_prep.common.errors import WRITE_FAILURES, UserError
from data_prep.common.text import read_json
from data_prep.manifest import (
    KINDS,
    Found,
    Level,
    Manifest,
    SameImage,
    Skipped,
    Wanted,
    checksummed,
)
from data_prep.opencv import cv2
from data_prep.order import ordered
from data_prep.records import SPLITS, by_split, check_records
from data_prep.split_writer import SplitWriter
from data_prep.validation import drawn

FORMAT = 2  # of the folder; a data set of another format is rebuilt
BAD_SHOWN = 50  # names of unusable files printed


def is_current(place, wanted):
    """Whether the Place holds a finished build with exactly these options and this source."""
    try:
        found = manifests.read(place.path)
    except UserError:
        return False
    parts = [f"{split}_{kind}/data.mdb" for split in found.splits for kind in KINDS]
    whole = all((place.path / file).is_file() for file in [*parts, *found.checksums])
    return whole and found.is_of(wanted)


def wanted_manifest(name, source, options):
    """The manifest.Wanted of a data set. options: BuildOptions, yet without the reader's."""
    return Wanted(
        format=FORMAT,
        name=name,
        fingerprint=source.fingerprint,
        levels=tuple(map(Level, source.hierarchy.levels, source.hierarchy.sizes)),
        options=replace(options, reader=source.options),
        versions={
            "opencv": cv2.__version__,
            "lmdb": ".".join(map(str, lmdb.version())),
            **source.versions,
        },
    )


def build(place, source, wanted, jobs, afresh=False):
    """Build the data set at a Place (which is `locked`). Returns its Manifest.

    Resumes an interrupted build of the same Wanted, unless `afresh` is set.
    """
    if afresh:
        place.remove_partial()
    try:
        try:
            manifest = _resumed_or_afresh(place, source, wanted, jobs)
        except UserError:  # of the images: other images make another build
            place.remove_partial()
            raise
        publish(place)
    except KeyboardInterrupt:
        print("stopped: run the same command to resume", file=sys.stderr)
        raise
    except (OSError, lmdb.Error) as error:
        if isinstance(error, OSError) and error.errno not in WRITE_FAILURES:
            raise
        raise UserError(
            f"writing {place} failed ({error}): free disk space and run the same command to "
            f"resume, or delete {place.partial}"
        ) from error
    return manifest


def _resumed_or_afresh(place, source, wanted, jobs):
    try:
        return _fill(place, source, wanted, jobs)
    except checkpoint.Damaged:
        print(f"the unfinished build of {place} is damaged: starting over")
        place.remove_partial()
        return _fill(place, source, wanted, jobs)


def _fill(place, source, wanted, jobs):
    """Build the data set in partial/data, or resume building it. Returns its Manifest."""
    data, state = place.partial / "data", place.partial / "state"
    text = manifests.text(wanted).encode()
    if not (state / "wanted.json").exists() or (state / "wanted.json").read_bytes() != text:
        place.remove_partial()
        state.mkdir(parents=True)
        files.write_whole(state / "wanted.json", text)
        data.mkdir()
    hierarchy, options, bad, skipped = source.hierarchy, wanted.options, [], None
    records = _prepared(source, state / "prepared", jobs)
    records = drawn(records, options.validation, options.seed)
    if options.skip_bad or options.skip_duplicates:
        skipped = _skipped(state, records, options, hierarchy, jobs)
        records = _without(records, skipped, hierarchy)
    hierarchy = control.tree_of(hierarchy, options, {record.label for record in records})
    splits = []
    for split, part in by_split(records).items():
        if split == "train":
            part, facts = ordered(part, options, hierarchy)
        splits.append(SplitWriter(place.partial, split, part, hierarchy, options))
    done, total = (sum(counts) for counts in zip(*((one.done, len(one.records)) for one in splits)))
    if done:
        print(f"resuming at {done} of {total} images", flush=True)
    for one in splits:
        one.write(jobs, bad)
    if bad:
        raise UserError(
            f"{len(bad)} of {len(records)} images can't be used, so nothing was built: replace "
            f"these files, or leave them out with --skip-bad:{_listed(bad)}"
        )
    entries = {one.split: one.finish() for one in splits}
    entries["train"] = replace(entries["train"], order=facts)
    total, distinct = splits[0].total, splits[0].distinct
    lmdb_io.write_mean(data / "mean.binaryproto", total.transpose(2, 0, 1), distinct)
    means = total.mean(axis=(0, 1)) / distinct
    (data / "hierarchy.tsv").write_text(hierarchy.text(), encoding="utf-8")
    contact_sheet.write(data, hierarchy, options.seed)
    manifest = Manifest(
        **vars(wanted),
        splits=entries,
        skipped=skipped,
        findings=_found([one.images for one in splits]),
        mean_bgr=tuple(round(float(value), 3) for value in means),
        checksums={file: files.sha256(data / file) for file in checksummed(entries)},
    )
    (data / manifests.FILE).write_text(manifests.text(manifest), encoding="utf-8")
    return manifest


def _found(splits):
    """The manifest's Found for the findings.Images of all splits."""
    return Found(
        same_image=tuple(
            tuple(SameImage(image.split, image.name, image.label) for image in group)
            for group in findings.same_images(splits)
        ),
        one_color=tuple(name for images in splits for name in images.uniform),
        of=sum(len(images.names) for images in splits),
    )


def warnings(manifest, hierarchy):
    """The sentences of findings.sentences for a manifest."""
    found = manifest.findings
    if found is None:
        return []
    groups = [
        [findings.Image(image.split, image.image, image.label) for image in group]
        for group in found.same_image
    ]
    return findings.sentences(groups, found.one_color, found.of, hierarchy)


def _prepared(source, folder, jobs):
    """The source's records. Files that the reader makes for them go into an emptied folder."""
    emptied(folder)
    records = source.prepare(folder, jobs)
    check_records(records, source.hierarchy)
    return records


def _skipped(state, records, options, hierarchy, jobs):
    """manifest.Skipped of the records to leave out, found by a pass over all images."""
    known = state / "skipped.json"
    if not known.exists():
        bad, looked = [], {split: findings.Images.none(split) for split in SPLITS}
        encode = options.skip_duplicates  # duplicates are compared as stored
        with (
            closing(pipeline.chunks(records, options, jobs, encode=encode)) as chunks,
            progress.bar("look", "images", len(records)) as shown,
        ):
            for chunk in chunks:
                for record, image in zip(chunk.records, chunk.images):
                    if image.reason:
                        bad.append(Skipped(record.name, image.reason))
                    else:
                        looked[record.split].add(record.name, record.label, image.digest)
                shown.update(len(chunk.records))
        gone = bad if options.skip_bad else []
        if options.skip_duplicates:
            gone = gone + findings.left_out(findings.same_images(looked.values()), hierarchy)
        files.write_whole(known, json.dumps(typed.to_json(tuple(gone))))
    listed = read_json(known, "the list of skipped images")
    return tuple(typed.from_json(Skipped, entry, str(known)) for entry in listed)


def _without(records, skipped, hierarchy):
    """The records without the skipped images, which it prints with the classes they leave empty.

    Raises UserError if a split becomes empty.
    """
    gone = {entry.image for entry in skipped}
    if not gone:
        return records
    lines = [f"{entry.image}: {entry.reason}" for entry in skipped]
    print(f"left out: {len(gone)} of {len(records)} images:{_listed(lines)}")
    kept = [record for record in records if record.name not in gone]
    check_records(kept, hierarchy)
    for split in SPLITS:
        before, after = ({r.label for r in part if r.split == split} for part in (records, kept))
        if before - after:
            names = [hierarchy.names[0][label] for label in sorted(before - after)]
            print(f"warning: these classes have no {split} images left:{_listed(names)}")
    return kept


def _listed(lines):
    """The lines as an indented list below a sentence, at most BAD_SHOWN of them."""
    more = [f"... and {len(lines) - BAD_SHOWN} more"] if len(lines) > BAD_SHOWN else []
    return "\n  " + "\n  ".join(lines[:BAD_SHOWN] + more)


def emptied(folder):
    """Make the folder, or empty it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def publish(place):
    """Put the finished folder in place of the old one. Its contents reach the disk first."""
    data = place.partial / "data"
    for path in sorted(data.rglob("*")) + [data]:
        files.sync(path)
    place.publish(data)
