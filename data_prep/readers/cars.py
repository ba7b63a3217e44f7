"""Stanford Cars (Krause et al. 2013): two folders of photographs and a devkit of .mat files.

The official layout has devkit/ and cars_test_annos_withlabels.mat beside cars_train/ and
cars_test/. Kaggle's copies have car_devkit/devkit/, cars_train/cars_train/, cars_test/cars_test/
and names such as `cars_test_annos_withlabels (1).mat`; other mirrors put all .mat files beside the
folders, or everything into a folder stanford_cars/. All of these give the same data set.

The later edition of the archive has all photographs in car_ims/, with other numbers, and a single
list, cars_annos.mat, with class names and a flag for test images. It is read if
cars_train_annos.mat is missing.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.readers.files import add_partial, records_with_files
from data_prep.records import Record, Source, inside

DESCRIPTION = "Stanford Cars: 196 models -> 9 body types"
SIZE = 256
META = "cars_meta.mat"
JOINT = "cars_annos.mat"  # of the later edition
LISTS = {  # split: (annotations, images in them, folder)
    "train": ("cars_train_annos.mat", 8144, "cars_train"),
    "test": ("cars_test_annos_withlabels.mat", 8041, "cars_test"),
}
AROUND = "stanford_cars"  # top folder of some mirrors
DEVKITS = ("", "devkit", "car_devkit/devkit")  # folders below --root to search for .mat files
COPIES = ("", " (1)")  # suffixes that browsers add to file names
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")  # pixels from 1, inclusive


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder of the unpacked archive, with cars_train/, cars_test/, devkit/ and "
        "cars_test_annos_withlabels.mat (which may also be in devkit/)",
    )
    parser.add_argument("--bbox", action="store_true", help="crop to the ground-truth boxes")
    add_partial(parser)


def name(args):
    return "cars_bbox" if args.bbox else "cars"


def open_source(args):
    hierarchy = Hierarchy.read(TABLES / "cars.tsv")
    digest = hashlib.sha256(hierarchy.text().encode())
    root = args.root
    if not (root / LISTS["train"][2]).is_dir() and (root / AROUND).is_dir():
        root = root / AROUND
    joint = _find(root, LISTS["train"][0]) is None and _find(root, JOINT) is not None
    names = _load(root, JOINT if joint else META, "class_names", digest)
    _check_classes(*names, hierarchy.names[0])
    records = []
    for split, (path, rows, folder, field) in (_joint if joint else _apart)(root, digest).items():
        count = LISTS[split][1]
        if len(rows) != count and not args.partial:
            raise UserError(
                f"{path} lists {len(rows)} {split} images, Stanford Cars has {count}: download "
                "it again, or add --partial to build from these"
            )
        listed = _records(path, rows, split, folder, field, hierarchy.sizes[0], args.bbox)
        records += records_with_files(listed, path, folder, digest, args.partial)
    return Source(
        hierarchy,
        digest.hexdigest(),
        lambda folder, jobs: records,
        {"bbox": args.bbox, "partial": args.partial},
    )


def _apart(root, digest):
    """{split: (path of its list, rows, folder of its images, the rows' field of file names)}"""
    found = {}
    for split, (file, _, images) in LISTS.items():
        folder = root / images
        if (folder / images).is_dir():
            folder = folder / images
        found[split] = *_load(root, file, "annotations", digest), folder, "fname"
    return found


def _joint(root, digest):
    """As _apart, for the later edition; paths in its list begin with car_ims/."""
    path, rows = _load(root, JOINT, "annotations", digest)
    fields = rows.dtype.names or ()
    lacking = [field for field in ("relative_im_path", "test") if field not in fields]
    if lacking:
        raise UserError(f"{path}: the annotations have no {lacking[0]}: use the original {JOINT}")
    test = np.array([bool(row["test"]) for row in rows])
    return {
        split: (path, rows[test == (split == "test")], root, "relative_im_path") for split in LISTS
    }


def _find(root, file):
    """The path of a .mat file, or None if it is not found."""
    stem, suffix = file.rsplit(".", 1)
    paths = (root / place / f"{stem}{copy}.{suffix}" for place in DEVKITS for copy in COPIES)
    return next((path for path in paths if path.is_file()), None)


def _load(root, file, variable, digest):
    """The path of a .mat file and one variable, a flat array; adds its bytes to the digest."""
    path = _find(root, file)
    if path is None:
        hint = ""
        if file == LISTS["test"][0]:
            hint = " (a separate download: the devkit's cars_test_annos.mat has no classes)"
        raise UserError(
            f"{file}{hint} not found in {root}, also not in {' or '.join(DEVKITS[1:])}: --root "
            "must name the folder of the unpacked archive"
        )
    from scipy.io import loadmat  # imported here, because no other data set needs it

    data = path.read_bytes()
    digest.update(data)
    try:
        found = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])
    except Exception:  # a damaged file makes it raise nearly anything, also zlib's errors
        raise UserError(f"{path} is damaged or not a MATLAB file: download it again") from None
    if variable not in found:
        raise UserError(f"{path} has no variable {variable}: download it again")
    return path, np.atleast_1d(found[variable])


def _check_classes(path, found, names):
    """Raises UserError unless class i of the devkit is row i of data_prep/hierarchies/cars.tsv."""
    if len(found) != len(names):
        raise UserError(f"{path} has {len(found)} classes, Stanford Cars has {len(names)}")
    for number, (one, other) in enumerate(zip(found, names), 1):
        if str(one) != other:
            raise UserError(
                f"{path}: class {number} is {str(one)!r}, but {other!r} in "
                "data_prep/hierarchies/cars.tsv: download the devkit again"
            )


def _records(path, rows, split, folder, field, classes, bbox):
    fields = (*CORNERS, "class", field)
    lacking = [name for name in fields if name not in (rows.dtype.names or ())]
    if lacking:
        raise UserError(f"{path}: the annotations have no {lacking[0]}: use the archive's own list")
    records = []
    for number, row in enumerate(rows, 1):
        try:
            *corners, label = (int(row[name]) for name in fields[:-1])
            file = str(row[field])
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
                f"{LISTS[split][2]}/{file}" if field == "fname" else file,
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
