"""Stanford Cars (Krause et al. 2013): two folders of photographs and a devkit of .mat files.

The official layout has devkit/ and cars_test_annos_withlabels.mat beside cars_train/ and
cars_test/; Kaggle's copies have car_devkit/devkit/, cars_train/cars_train/ and
cars_test/cars_test/. Both are read, and give the same data set.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from data_prep.cli import UserError
from data_prep.hierarchy import TABLES, Hierarchy
from data_prep.readers.files import present
from data_prep.records import Record, Source, inside

DESCRIPTION = "Stanford Cars: 196 models -> 9 body types"
SIZE = 256
META = "cars_meta.mat"
LISTS = {  # split: (annotations, images in them, folder)
    "train": ("cars_train_annos.mat", 8144, "cars_train"),
    "test": ("cars_test_annos_withlabels.mat", 8041, "cars_test"),
}
DEVKITS = ("", "devkit", "car_devkit/devkit")  # folders of --root that are searched for .mat files
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")  # pixels from 1; x2 and y2 are in the box


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="the folder that has cars_train/, cars_test/, devkit/ and "
        "cars_test_annos_withlabels.mat (which may be in devkit/ too)",
    )
    parser.add_argument("--bbox", action="store_true", help="crop to the ground-truth boxes")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept a copy that lacks some of the images; labels stay those of the full data set",
    )


def name(args):
    return "cars_bbox" if args.bbox else "cars"


def open_source(args):
    hierarchy = Hierarchy.read(TABLES / "cars.tsv")
    digest = hashlib.sha256(hierarchy.text().encode())
    _check_classes(*_load(args.root, META, "class_names", digest), hierarchy.names[0])
    records = []
    for split, (file, count, images) in LISTS.items():
        path, rows = _load(args.root, file, "annotations", digest)
        if len(rows) != count and not args.partial:
            raise UserError(
                f"{path} lists {len(rows)} images, Stanford Cars has {count} in {split}: download "
                "it again, or add --partial to build from what is there"
            )
        folder = args.root / images
        if (folder / images).is_dir():
            folder = folder / images
        listed = _records(path, rows, split, images, folder, hierarchy.sizes[0], args.bbox)
        records += present(listed, path, folder, digest, args.partial)
    return Source(
        hierarchy,
        digest.hexdigest(),
        lambda folder, jobs: records,
        {"bbox": args.bbox, "partial": args.partial},
    )


def _load(root, file, variable, digest):
    """The path of a .mat file and one variable of it, a flat array; its bytes go to the digest."""
    path = next((p for p in (root / d / file for d in DEVKITS) if p.is_file()), None)
    if path is None:
        hint = ""
        if file == LISTS["test"][0]:
            hint = " (a download of its own: the devkit's cars_test_annos.mat has no classes)"
        raise UserError(
            f"{root} has no {file}{hint}, neither itself nor in {' or '.join(DEVKITS[1:])}: --root "
            "must name the folder of the unpacked archive"
        )
    from scipy.io import loadmat  # here, because no other data set needs it

    data = path.read_bytes()
    digest.update(data)
    try:
        found = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])
    except Exception:  # a damaged file makes it raise nearly anything, also zlib's errors
        raise UserError(f"{path} is damaged or no MATLAB file: download it again") from None
    if variable not in found:
        raise UserError(f"{path} has no variable {variable}: download it again")
    return path, np.atleast_1d(found[variable])


def _check_classes(path, found, names):
    """UserError unless class i of the devkit is row i of our label tree."""
    if len(found) != len(names):
        raise UserError(f"{path} has {len(found)} classes, Stanford Cars has {len(names)}")
    for number, (one, other) in enumerate(zip(found, names), 1):
        if str(one) != other:
            raise UserError(
                f"{path}: class {number} is {str(one)!r}, and {other!r} in "
                "data_prep/hierarchies/cars.tsv: download the devkit again"
            )


def _records(path, rows, split, images, folder, classes, bbox):
    fields = (*CORNERS, "class", "fname")
    lacking = [field for field in fields if field not in (rows.dtype.names or ())]
    if lacking:
        raise UserError(
            f"{path}: the annotations have no {lacking[0]}: use the original {LISTS[split][0]}"
        )
    records = []
    for number, row in enumerate(rows, 1):
        try:
            *corners, label = (int(row[field]) for field in fields[:-1])
            file = str(row["fname"])
            if not (file and file.isprintable()):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"{path}: annotation {number} is not four corners, a class and a file name"
            ) from None
        if not 1 <= label <= classes:
            raise UserError(f"{path}: {file} has the class {label}, not one from 1 to {classes}")
        records.append(
            Record(
                f"{images}/{file}",
                inside(folder, file),
                label - 1,
                split,
                _box(path, file, corners) if bbox else None,
            )
        )
    return records


def _box(path, file, corners):
    x1, y1, x2, y2 = corners
    if not (1 <= x1 <= x2 < 1e6 and 1 <= y1 <= y2 < 1e6):
        raise UserError(
            f"{path}: {file} has the box {x1}, {y1}, {x2}, {y2}, not two corners in pixels from 1"
        )
    return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1
