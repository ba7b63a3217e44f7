#!/usr/bin/env python3
"""Check a built data set record by record: keys, counts, labels, images, disjoint splits."""

import argparse
import hashlib
import itertools
from pathlib import Path

import numpy as np

from data_prep import findings, images, lmdb_io, manifest as manifests
from data_prep.common import progress
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.manifest import KINDS
from data_prep.near_duplicates import ink, ink_distances
from data_prep.records import SPLITS, read_listing

SHOWN = 10  # problems printed; one mistake usually shows in thousands of records


class Findings:
    """Problems in the order found, and facts about every image."""

    def __init__(self):
        self.problems, self.count = [], 0
        self.warnings = []  # problems of the source, which rebuilding does not change
        self.images = []  # a findings.Images of each split
        self.inks = {split: {} for split in SPLITS}  # label: [(key, ink), ...]

    def add(self, sentence):
        self.count += 1
        if self.count <= SHOWN:
            self.problems.append(sentence)


def verify(folder, nearest=None):
    """Check a data set folder. Returns (Findings, manifest); raises UserError if it can't be read.

    nearest: if given, also report test images whose ink distance from a training image of their
    class is smaller.
    """
    manifest = manifests.read(folder)
    hierarchy = Hierarchy.read(folder / "hierarchy.tsv")
    found = Findings()
    for file, checksum in manifest.checksums.items():
        data = (folder / file).read_bytes() if (folder / file).is_file() else b""
        if hashlib.sha256(data).hexdigest() != checksum:
            found.add(f"{file} differs from the file that was built")
    levels = [(level.name, level.classes) for level in manifest.levels]
    if levels != [*zip(hierarchy.levels, hierarchy.sizes)]:
        found.add("manifest.json and hierarchy.tsv have different levels")
    for split in manifest.present_splits:
        _verify_split(folder, split, manifest, hierarchy, found, nearest is not None)
    total = sum(len(images.names) for images in found.images)
    uniform = [name for images in found.images for name in images.uniform]
    groups = findings.same_images(found.images)
    found.warnings += findings.sentences(groups, uniform, total, hierarchy)
    if nearest is not None:
        _compare(found, nearest)
    return found, manifest


def _verify_split(folder, split, manifest, hierarchy, found, keep_inks):
    entry, options = manifest.splits[split], manifest.options
    listed = read_listing(folder / f"{split}.tsv", hierarchy)
    if len(listed) != entry.images:
        found.add(f"{split}.tsv: {len(listed)} records, {entry.images} by manifest.json")
    pairs = itertools.zip_longest(*(lmdb_io.items(folder / f"{split}_{kind}") for kind in KINDS))
    sides = options.sides if split == "train" else (options.size,)
    total, count, digests = 0, entry.images, [hashlib.sha256() for _ in KINDS]
    seen = findings.Images.none(split)
    known, scales = set(), {}  # scales: {name: records at each of the sides}
    for image_item, label_item in progress.each(pairs, f"verify {split}", "images", count):
        if image_item is None or label_item is None:
            found.add(f"{split}: images and labels differ in number after {total} records")
            break
        for digest, item in zip(digests, (image_item, label_item)):
            lmdb_io.add_to_digest(digest, [item])
        key = image_item[0].decode(errors="replace")
        where = f"{split} {key}"
        if image_item[0] != label_item[0]:
            found.add(
                f"{where}: the labels have the key {label_item[0].decode(errors='replace')} instead"
            )
        if key != lmdb_io.KEY.format(total):
            found.add(f"{where}: record {total} should have the key {lmdb_io.KEY.format(total)}")
        total += 1
        try:
            image, labels = lmdb_io.parse_datum(image_item[1]), lmdb_io.parse_datum(label_item[1])
        except UserError as error:
            found.add(f"{where}: {error}")
            continue
        _verify_labels(image, labels, hierarchy, where, found)
        if total <= len(listed) and image.label != listed[total - 1][1]:
            found.add(
                f"{where}: the label is {image.label}, but {listed[total - 1][1]} in {split}.tsv"
            )
        name, side = listed[total - 1][0] if total <= len(listed) else where, options.size
        if manifest.channels:
            content = _verify_feature(image, manifest.channels, where, found)
        else:
            content, side = _verify_image(image, options, sides, (split, key), found, keep_inks)
        if side in sides:
            scales.setdefault(name, dict.fromkeys(sides, 0))[side] += 1
        if content is not None and side == options.size and name not in known:
            known.add(name)
            seen.add(name, image.label, *content)
    found.images.append(seen)
    for name, counts in scales.items():
        if not min(counts.values()) or max(counts.values()) > min(counts.values()) + 1:
            each = ", ".join(f"{number} of {side} pixels" for side, number in counts.items())
            found.add(f"{split}: {name} is not stored equally often at each size: {each}")
    if total != count:
        found.add(f"{split}: {total} records, {count} by manifest.json")
    for kind, digest in zip(KINDS, digests):
        if digest.hexdigest() != entry.sha256[kind]:
            found.add(f"{split}_{kind}: the records differ from those built")


def _verify_labels(image, labels, hierarchy, where, found):
    row = list(labels.float_data)
    if (labels.channels, labels.height, labels.width) != (len(hierarchy.levels), 1, 1):
        found.add(f"{where}: the label record is not {len(hierarchy.levels)} x 1 x 1")
    if not row or row[0] != image.label or labels.label != image.label:
        found.add(f"{where}: the image's label {image.label} is not the first of its labels {row}")
    elif (
        not (0 <= image.label < hierarchy.sizes[0]) or row != hierarchy.labels[image.label].tolist()
    ):
        found.add(f"{where}: the labels {row} are not a row of hierarchy.tsv")


def _verify_image(datum, options, sides, where, found, keep_inks):
    """((digest, whether it has one color), its size) of a Datum's image; (None, None) if it can't
    be decoded. sides: those that are right."""
    name = " ".join(where)
    if datum.encoded != (images.ENCODINGS.get(options.encoded) is not None):
        found.add(
            f"{name}: the image is {'' if datum.encoded else 'not '}marked as encoded, but "
            f"manifest.json says {options.encoded}"
        )
    try:
        image = lmdb_io.datum_image(datum)
    except images.ImageError as error:
        found.add(f"{name}: {error}")
        return None, None
    how, side = options.resize, min(image.shape[:2])
    height, width = image.shape[:2]
    if side not in sides or (how == "squeeze" and height != width):
        right = " or ".join(map(str, sides))
        found.add(f"{name}: {width} x {height} pixels, not {right} ({how})")
    if keep_inks and side == options.size:
        found.inks[where[0]].setdefault(datum.label, []).append((where[1], ink(image)))
    return (findings.digest(datum.data), findings.is_uniform(image)), side


def _verify_feature(datum, channels, where, found):
    """As _verify_image, for a feature; an image without features (all 0) counts as of one color."""
    try:
        values = lmdb_io.datum_feature(datum)
    except ValueError as error:
        found.add(f"{where}: {error}")
        return None
    if len(values) != channels:
        found.add(f"{where}: {len(values)} values, {channels} by manifest.json")
    return findings.digest(values.tobytes()), not values.any()


def _compare(found, nearest):
    closest = 1.0
    tests_by_label = found.inks["test"]
    for label, tests in progress.each(
        tests_by_label.items(), "compare", "classes", len(tests_by_label)
    ):
        others = found.inks["train"].get(label, [])
        if not others:
            continue
        stack = np.stack([one for _, one in others])
        for key, one in tests:
            distances = ink_distances(one, stack)
            at = int(distances.argmin())
            closest = min(closest, float(distances[at]))
            if distances[at] < nearest:
                found.add(
                    f"test {key}: nearly the same drawing as train {others[at][0]} (ink distance "
                    f"{distances[at]:.3f}, at least {nearest} wanted)"
                )
    found.closest = closest


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: data_prep/verify_lmdb.py data/cub"
    )
    parser.add_argument("folder", type=Path, help="a built data set, e.g. data/cub")
    parser.add_argument(
        "--nearest",
        type=within(float, 0, 1),
        metavar="DISTANCE",
        help="for drawings, such as data/cards: also "
        "check that every test image has at least this ink distance from the training images of "
        "its class (data_prep/near_duplicates.py: 0 for equal images, 1 for images without "
        "overlap; 0.1 separates different artwork from the same)",
    )
    args = parser.parse_args(argv)
    found, manifest = verify(args.folder, args.nearest)
    content = f"features have {manifest.channels} values"
    if not manifest.channels:
        content = f"images decode to {', '.join(map(str, manifest.options.sides))} pixels"
    for warning in found.warnings:
        print(warning)
    if found.count:
        print("\n".join(found.problems))
        raise UserError(
            f"{args.folder} is damaged: {found.count} problem(s), the first "
            f"{len(found.problems)} "
            "above; rebuild it with data_prep/build_lmdb.py ... --force"
        )
    for split in manifest.present_splits:
        entry = manifest.splits[split]
        present = ", ".join(
            f"{n} of {level.classes} {level.name}"
            for n, level in zip(entry.classes_present, manifest.levels)
        )
        print(f"{split}: {entry.images} images with labels, key by key; {present}")
    if args.nearest is not None:
        print(
            "nearest pair of a test and a training image of one class: ink distance "
            f"{found.closest:.3f}"
        )
    print(
        f"{args.folder} is intact: labels are rows of hierarchy.tsv, {content}"
        + (
            f"; {len(found.warnings)} warning(s) about its source, above"
            if found.warnings
            else ", no image is in two splits or classes"
        )
    )
    return 0


if __name__ == "__main__":
    command(main)
