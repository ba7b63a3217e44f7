"""CUB-200-2011 (Wah et al. 2011) in its official layout: five lists and a folder of photographs."""

import hashlib
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.text import number_of, read_text
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.readers.files import add_partial, records_with_files
from data_prep.records import Record, Source, inside

DESCRIPTION = "CUB-200-2011: 200 bird species -> 40 families -> 13 orders"
SIZE = 256
MOST = 10**6  # largest number of an image
COUNTS = {"train": 5994, "test": 5794}
LISTS = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "classes.txt",
    "bounding_boxes.txt",
)


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder of the unpacked archive, with images.txt, "
        "image_class_labels.txt, train_test_split.txt, classes.txt, bounding_boxes.txt "
        "and images/",
    )
    parser.add_argument("--bbox", action="store_true", help="crop to the ground-truth boxes")
    add_partial(parser, "images or species")


def name(args):
    return "cub_bbox" if args.bbox else "cub"


def open_source(args):
    hierarchy = Hierarchy.read(TABLES / "cub.tsv")
    absent = next((file for file in LISTS if not (args.root / file).is_file()), None)
    if absent:
        raise UserError(
            f"{args.root / absent} not found: --root must name the folder of the unpacked archive, "
            f"which has {', '.join(LISTS)}"
        )
    texts = {file: read_text(args.root / file, "the list") for file in LISTS}
    records = _records(args, hierarchy, {f: _parse(args.root / f, t) for f, t in texts.items()})
    digest = hashlib.sha256(hierarchy.text().encode())
    for file in LISTS:
        digest.update((args.root / file).read_bytes())
    records = records_with_files(
        records, args.root / "images.txt", args.root / "images", digest, args.partial
    )
    return Source(
        hierarchy,
        digest.hexdigest(),
        lambda folder, jobs: records,
        {"bbox": args.bbox, "partial": args.partial},
    )


def _parse(path, text):
    """{id: rest of the line} of one list; ids are whole numbers, unique."""
    rows = {}
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split(maxsplit=1)
        if not cells:
            continue
        try:
            own, value = number_of(cells[0], MOST), cells[1]
        except (ValueError, IndexError):
            raise UserError(
                f"{path}, line {number}: expected '<number> <value>', got {line[:60]!r}"
            ) from None
        if own in rows:
            raise UserError(f"{path}, line {number}: {own} occurs twice")
        rows[own] = value.strip()
    return rows


def _records(args, hierarchy, lists):
    root, species = args.root, hierarchy.names[0]
    images, classes = lists["images.txt"], lists["classes.txt"]
    for number, species_name in classes.items():
        if not 1 <= number <= len(species) or species[number - 1] != species_name:
            raise UserError(
                f"{root / 'classes.txt'}: {number} {species_name} is not species {number} "
                f"of CUB-200-2011 (data_prep/hierarchies/cub.tsv)"
            )
    for file in ("image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"):
        differ = sorted(images.keys() ^ lists[file].keys())
        if differ:
            raise UserError(
                f"{root / file} and {root / 'images.txt'} list different images: "
                f"{len(differ)} numbers are in one only, e.g. {differ[0]}"
            )
    known = {str(number): number - 1 for number in classes}
    records = []
    for number, image in images.items():
        label, split = (
            lists["image_class_labels.txt"][number],
            lists["train_test_split.txt"][number],
        )
        if split not in ("0", "1"):
            raise UserError(
                f"{root / 'train_test_split.txt'}: image {number} has {split}, neither 0 nor 1"
            )
        if label not in known:
            raise UserError(
                f"{root / 'image_class_labels.txt'}: image {number} has the class {label}, "
                "which classes.txt lacks"
            )
        records.append(
            Record(
                image,
                inside(root / "images", image),
                known[label],
                "train" if split == "1" else "test",
                _box(root, number, lists["bounding_boxes.txt"]) if args.bbox else None,
            )
        )
    counts = {split: sum(r.split == split for r in records) for split in COUNTS}
    if counts != COUNTS and not args.partial:
        raise UserError(
            f"{root} lists {counts['train']} training and {counts['test']} test images, "
            f"CUB-200-2011 has {COUNTS['train']} and {COUNTS['test']}: unpack the whole "
            "archive, or add --partial to build from these"
        )
    return records


def _box(root, number, boxes):
    try:
        box = tuple(float(value) for value in boxes[number].split())
        if len(box) == 4 and min(box[2:]) > 0 and max(map(abs, box)) < 1e6:
            return box
    except ValueError:
        pass
    raise UserError(
        f"{root / 'bounding_boxes.txt'}: image {number} needs x, y, width, height in pixels, "
        f"but has {boxes[number]}"
    )
