"""FGVC-Aircraft (Maji et al. 2013), release 2013b, in its official layout: a folder data/ with
lists of the classes and of each image's variant, family and manufacturer, and data/images/.

The lowest 20 pixels of every photograph name its copyright holder. They do not belong to the
aircraft and are always removed.
"""

import hashlib
import re
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.readers.files import add_partial, records_with_files, some
from data_prep.records import Record, Source, inside

DESCRIPTION = "FGVC-Aircraft: 100 variants -> 70 families -> 30 manufacturers"
SIZE = 256
COUNTS = {"train": ("trainval", 6667), "test": ("test", 3333)}  # split: (in file names, images)
CLASSES = {  # level: list of its classes
    "variant": "variants.txt",
    "family": "families.txt",
    "manufacturer": "manufacturers.txt",
}
BOXES = "images_box.txt"  # xmin ymin xmax ymax in pixels from 1, inclusive
COPYRIGHT = 20  # pixels


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder fgvc-aircraft-2013b, or its subfolder data, which has variants.txt, "
        "images_variant_trainval.txt and images/",
    )
    parser.add_argument(
        "--bbox",
        action="store_true",
        help=f"crop to the ground-truth boxes in {BOXES} (the copyright strip of {COPYRIGHT} "
        "pixels is always removed)",
    )
    add_partial(parser)


def name(args):
    return "aircraft_bbox" if args.bbox else "aircraft"


def open_source(args):
    root = args.root
    if not (root / CLASSES["variant"]).is_file() and (root / "data").is_dir():
        root = root / "data"
    hierarchy = Hierarchy.read(TABLES / "aircraft.tsv")
    digest = hashlib.sha256(hierarchy.text().encode())
    for level, names in zip(hierarchy.levels, hierarchy.names):
        _check_classes(root / CLASSES[level], _lines(root / CLASSES[level], digest), names)
    boxes = _table(root / BOXES, digest) if args.bbox else None
    records, split_of = [], {}
    for split, (word, count) in COUNTS.items():
        path = root / f"images_{hierarchy.levels[0]}_{word}.txt"
        labels = _labels(root, word, hierarchy, digest)
        if len(labels) != count and not args.partial:
            raise UserError(
                f"{path} lists {len(labels)} images, FGVC-Aircraft has {count} in {word}: unpack "
                "the whole archive, or add --partial to build from these"
            )
        for image in labels:
            if split_of.setdefault(image, split) != split:
                raise UserError(f"{path}: image {image} is listed for training too")
        listed = [
            Record(
                f"{image}.jpg",
                inside(root / "images", f"{image}.jpg"),
                label,
                split,
                _box(root / BOXES, image, boxes) if args.bbox else None,
                COPYRIGHT,
            )
            for image, label in labels.items()
        ]
        records += records_with_files(listed, path, root / "images", digest, args.partial)
    return Source(
        hierarchy,
        digest.hexdigest(),
        lambda folder, jobs: records,
        {"bbox": args.bbox, "partial": args.partial, "copyright_strip": COPYRIGHT},
    )


def _lines(path, digest):
    """[(line number, text)] of a list without its blank lines; adds its bytes to the digest."""
    if not path.is_file():
        raise UserError(
            f"{path} not found: --root must name the folder of the unpacked archive, "
            "fgvc-aircraft-2013b or its folder data"
        )
    lines = read_text(path, "the list").split("\n")
    digest.update(path.read_bytes())
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _table(path, digest):
    """{image: rest of its line} of a list; images are numbers of seven digits, unique."""
    rows = {}
    for number, line in _lines(path, digest):
        image, _, rest = line.partition(" ")
        if not (re.fullmatch("[0-9]{7}", image) and rest):
            raise UserError(
                f"{path}, line {number}: expected '<seven digits> <value>', got {line[:60]!r}"
            )
        if image in rows:
            raise UserError(f"{path}, line {number}: image {image} is listed twice")
        rows[image] = rest.strip()
    return rows


def _check_classes(path, lines, names):
    """Raises UserError unless the list has each of the names once, and no others."""
    found = [line for _, line in lines]
    for problem, wrong in (
        ("lacks", sorted(set(names) - set(found))),
        ("has the unknown", sorted(set(found) - set(names))),
        ("has twice", sorted(line for line in set(found) if found.count(line) > 1)),
    ):
        if wrong:
            raise UserError(
                f"{path} {problem} {some(wrong)}; FGVC-Aircraft's {len(names)} classes are in "
                "data_prep/hierarchies/aircraft.tsv: unpack the archive again"
            )


def _labels(root, word, hierarchy, digest):
    """{image: variant's id}, in the order of the archive's list.

    Raises UserError if the lists of the levels have different images, or disagree with the table in
    data_prep/hierarchies.
    """
    paths = [root / f"images_{level}_{word}.txt" for level in hierarchy.levels]
    tables = [_table(path, digest) for path in paths]
    for path, table in zip(paths[1:], tables[1:]):
        differ = sorted(tables[0].keys() ^ table.keys())
        if differ:
            raise UserError(
                f"{path} and {paths[0]} list different images: {len(differ)} are in one only, "
                f"e.g. {differ[0]}"
            )
    numbers = {variant: label for label, variant in enumerate(hierarchy.names[0])}
    labels = {}
    for image, variant in tables[0].items():
        label = labels[image] = numbers.get(variant)
        if label is None:
            raise UserError(
                f"{paths[0]}: image {image} has the variant {variant!r}, which "
                f"{root / CLASSES['variant']} lacks"
            )
        for j in range(1, len(paths)):
            expected = hierarchy.names[j][hierarchy.labels[label, j]]
            if tables[j][image] != expected:
                raise UserError(
                    f"{paths[j]}: image {image} has {tables[j][image]!r}, but the "
                    f"{hierarchy.levels[j]} of its variant {variant} is {expected!r} "
                    "(data_prep/hierarchies/aircraft.tsv): unpack the archive again"
                )
    return labels


def _box(path, image, boxes):
    if image not in boxes:
        raise UserError(f"{path} has no box of image {image}: unpack the archive again")
    corners = boxes[image].split()
    if len(corners) == 4 and all(re.fullmatch("[0-9]{1,6}", corner) for corner in corners):
        x1, y1, x2, y2 = map(int, corners)
        if 1 <= x1 <= x2 and 1 <= y1 <= y2:
            return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1
    raise UserError(
        f"{path}: image {image} has the box {boxes[image]!r}, not two corners in pixels from 1"
    )
