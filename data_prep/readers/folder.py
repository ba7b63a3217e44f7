"""A user's own photographs, in folders that are the label tree: order/family/species/*.jpg.

The deepest folders are the fine classes; every folder above is a class of the next level. Classes
are numbered by name. Folders of one level that share a name are told apart by their parents:
Audi/Coupe and BMW/Coupe become the classes "Audi/Coupe" and "BMW/Coupe" instead of "Coupe".

If the top level has the folders train and test and no others, they are the splits and no level.
Otherwise each class is split by the order of its images' hashes: the share of the test split is
exact, up to rounding; the images of one class have no influence on the split of another; and an
image that is added to a class moves at most one other image of it to the other split.
"""

import argparse
import hashlib
import os
import re
from collections import Counter
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy
from data_prep.readers.files import add_images, own_name, some
from data_prep.records import SPLITS, Record, Source, inside

DESCRIPTION = "your own photographs: folders coarse/fine/*.jpg at any depth"
SIZE = 256
TEST_SHARE = 0.25
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation"}


def _share(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("a number between 0 and 1 expected")
    return value


def _level_names(text):
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not all(re.fullmatch(r"\w+", name) for name in names):
        raise argparse.ArgumentTypeError(
            "different names of letters, digits and _ expected, with commas between them"
        )
    return names


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="the folder of the photographs; all of them lie at the same depth below it. Folders "
        "named train and test, and no others, at the top are the splits",
    )
    parser.add_argument(
        "--levels",
        type=_level_names,
        metavar="FINE,...,COARSE",
        help="names of the levels, e.g. species,family,order (default: level_1,level_2,...)",
    )
    parser.add_argument(
        "--test-share",
        type=_share,
        metavar="SHARE",
        help="of each class's images that are for testing, chosen by --seed; at least one where "
        f"there are two (default: {TEST_SHARE}; not with folders train and test)",
    )


def name(args):
    """The target's name, or else that of the photographs' folder, as a part of file names."""
    return own_name((args.out or args.root).resolve().name)


def open_source(args):
    root, out = args.root, args.out or Path("data") / name(args)
    if not root.is_dir():
        raise UserError(f"{root} is no folder: --root must name the folder of the photographs")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} lies among the photographs of {root}: choose another --out")
    files = _scan(root)
    top = {file.split("/")[0] for file in files if "/" in file}
    has_splits = top == set(SPLITS)
    if not has_splits and len({word.lower() for word in top} & SPLIT_WORDS) == len(top) > 0:
        raise UserError(
            f"{' and '.join(sorted(top))} in {root} must be the splits: name the folders train and "
            "test, and have both and no others"
        )
    if has_splits and args.test_share:
        raise UserError(
            f"--test-share has no use here: {root} has the folders train and test; leave it out"
        )
    classes = {file: tuple(file.split("/")[has_splits:-1]) for file in files}
    depth = _depth(root, classes)
    levels = args.levels or tuple(f"level_{level}" for level in range(1, depth + 1))
    if len(levels) != depth:
        raise UserError(
            f"--levels names {len(levels)} levels, and each photograph in {root} lies in "
            f"{_folders(depth)}: give one name per level"
        )
    hierarchy, labels = _tree(levels, set(classes.values()))
    if len(labels) == 1:
        raise UserError(
            f"{root} has one class only, {'/'.join(*labels)}: --root must name the folder above "
            "all classes"
        )
    if has_splits:
        splits = {file: file.split("/")[0] for file in files}
        _check_train(root, classes, splits)
    else:
        splits = _split(classes, args.test_share or TEST_SHARE, args.seed)
        if "test" not in splits.values():
            raise UserError(f"no class in {root} has two images: one to train, one to test with")
    records = [Record(file, root / file, labels[classes[file]], splits[file]) for file in files]
    digest = hashlib.sha256(hierarchy.text().encode())
    add_images(digest, records)
    share = None if has_splits else args.test_share or TEST_SHARE
    return Source(
        hierarchy, digest.hexdigest(), lambda folder, jobs: records, {"test_share": share}
    )


def _scan(root):
    """The images below root as sorted paths relative to it, with /. Says what it leaves out."""
    files, others, empty = [], [], []

    def stop(error):
        raise error

    for place, folders, found in os.walk(root, onerror=stop):
        place = Path(place)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for folder in folders:
            if (place / folder).is_symlink():
                inside(root, (place / folder).relative_to(root))
                raise UserError(
                    f"{place / folder} is a link to another folder of {root}: its images would be "
                    "there twice; take it away"
                )
            _check_name(place, folder)
        images = 0
        for file in found:
            if file.startswith("."):
                continue
            path = (place / file).relative_to(root)
            if path.suffix.lower() not in EXTENSIONS:
                others.append(str(path))
                continue
            _check_name(place, file)
            if (place / file).is_symlink():
                inside(root, path)
            if not (place / file).is_file():
                raise UserError(f"{place / file} is a broken link or no plain file: take it away")
            files.append(path.as_posix())
            images += 1
        if not folders and not images and place != root:
            empty.append(str(place.relative_to(root)))
    if not files:
        raise UserError(f"{root} has no images ({' '.join(EXTENSIONS)})")
    for names, one, several in (
        (others, "file that is no image", "files that are no images"),
        (empty, "folder without images", "folders without images"),
    ):
        if names:
            shown = [text if text.isprintable() else ascii(text) for text in sorted(names)]
            print(f"left out {len(names)} {one if len(names) == 1 else several}: {some(shown)}")
    return sorted(files)


def _check_name(place, name):
    """UserError for a name that hierarchy.tsv and the lists of images can't hold."""
    if not (name.strip() and name.isprintable()):
        raise UserError(
            f"the name {ascii(name)} in {place} is blank, not UTF-8 or has control characters: "
            "rename it"
        )


def _folders(depth):
    return f"{depth} class folder{'s' * (depth != 1)}"


def _depth(root, classes):
    """The number of class folders above the images; UserError if it isn't the same for all."""
    (depth, _), *others = Counter(map(len, classes.values())).most_common()
    if others or not depth:
        usual = next(file for file, path in classes.items() if len(path) == depth)
        odd = next((file for file, path in classes.items() if len(path) != depth), usual)
        than = f", and {usual} in {depth}" if others else ""
        raise UserError(
            f"{root / odd} lies in {_folders(len(classes[odd]))}{than}: all images must lie at "
            "the same depth, each in the folder of its class"
        )
    return depth


def _tree(levels, paths):
    """The Hierarchy of fine classes given as paths (coarse, ..., fine), and {path: fine label}."""
    depth = len(levels)
    names, labels_of = [], []
    for level in range(depth):
        ends = _class_names({path[: depth - level] for path in paths})
        names.append(sorted(ends.values()))
        number = {end: i for i, end in enumerate(names[-1])}
        labels_of.append({path: number[end] for path, end in ends.items()})
    fine = sorted(paths, key=labels_of[0].get)
    rows = [[labels_of[level][path[: depth - level]] for level in range(depth)] for path in fine]
    hierarchy = Hierarchy(levels, rows, names)
    hierarchy.check()
    return hierarchy, labels_of[0]


def _class_names(paths):
    """{path: name} of one level's classes: the shortest end of the path that is its alone."""
    longest = max(map(len, paths))
    counts = [Counter(path[-n:] for path in paths) for n in range(1, longest + 1)]
    return {
        path: next("/".join(path[-n:]) for n, c in enumerate(counts, 1) if c[path[-n:]] == 1)
        for path in paths
    }


def _check_train(root, classes, splits):
    trained = {path for file, path in classes.items() if splits[file] == "train"}
    lacking = sorted("/".join(path) for path in set(classes.values()) - trained)
    if lacking:
        raise UserError(
            f"{root / 'train'} lacks {len(lacking)} of the classes in {root / 'test'}: "
            f"{some(lacking)}: a class that is tested must have training images"
        )


def _split(classes, share, seed):
    """{file: split}: in each class the images with the lowest hashes of seed and name are test."""
    members = {}
    for file, path in classes.items():
        members.setdefault(path, []).append(file)
    splits = dict.fromkeys(classes, "train")
    for files in members.values():
        files.sort(key=lambda file: hashlib.sha256(f"{seed} {file}".encode()).digest())
        count = min(max(int(share * len(files) + 0.5), 1), len(files) - 1)
        splits.update(dict.fromkeys(files[:count], "test"))
    return splits
