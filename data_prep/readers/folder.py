"""A user's own photographs, in folders that form the label tree: order/family/species/*.jpg.

The deepest folders are the fine classes; each folder above is a class of the next level. Classes
are numbered by name. Folders of one level with the same name are distinguished by their parents:
Audi/Coupe and BMW/Coupe become the classes "Audi/Coupe" and "BMW/Coupe" instead of "Coupe".

Folders of one level named train and test, and optionally val, are splits, not classes
(readers/splits.py). Without such folders the test images are drawn (readers/draws.py).
"""

import hashlib
import os
from collections import Counter
from pathlib import Path

from data_prep.common.arguments import level_names, pairs
from data_prep.common.errors import UserError
from data_prep.image_files import FORMATS, looks_like_image
from data_prep.label_tree import Hierarchy
from data_prep.names import class_name
from data_prep.readers import splits as splits_of_folders
from data_prep.readers.draws import TEST_SHARE, add_test_share, drawn_test
from data_prep.readers.files import add_images, own_name, some
from data_prep.records import Record, Source, inside

DESCRIPTION = "your own photographs: folders coarse/fine/*.jpg at any depth"
SIZE = 256
NO_SPLITS = "none"


def _split_folders(text):
    return text if text == NO_SPLITS else pairs(text)


def add_arguments(parser):
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder of the photographs, all at the same depth below it. Folders named train and "
        "test, and optionally val, on one level are the splits",
    )
    parser.add_argument(
        "--levels",
        type=level_names,
        metavar="FINE,...,COARSE",
        help="names of the levels, e.g. species,family,order (default: level_1,level_2,...)",
    )
    parser.add_argument(
        "--splits",
        type=_split_folders,
        metavar="FOLDER=SPLIT,...",
        help="folders of the splits train, val and test, e.g. seg_train=train,seg_test=test; "
        "other images are left out. none: folders named train or test are classes (default: "
        "recognize splits by name if this is unambiguous)",
    )
    add_test_share(parser, "chosen by --seed (default: 0.25; not for data with split folders)")


def name(args):
    """The name of --out or else of the photographs' folder, usable in file names."""
    return own_name((args.out or args.root).resolve().name)


def open_source(args):
    root, out = args.root, args.out or Path("data") / name(args)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --root must name the folder of the photographs")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} is inside the photographs' folder {root}: choose another --out")
    files = _scan(root)
    folders = {file: tuple(file.split("/")[:-1]) for file in files}
    found = _splits(root, [*dict.fromkeys(folders.values())], args.splits)
    if found.levels and args.test_share:
        raise UserError(
            f"--test-share does not apply: {root} has folders for its splits; leave it out"
        )
    split_of, classes = {}, {}
    for file, parts in folders.items():
        split_of[file], classes[file] = found.of(parts)
    if found.levels:
        files = _in_splits(root, files, split_of, args.splits)
    classes = _tidy({file: classes[file] for file in files})
    depth = _depth(root, classes)
    levels = args.levels or tuple(f"level_{level}" for level in range(1, depth + 1))
    if len(levels) != depth:
        raise UserError(
            f"--levels names {len(levels)} levels, but each photograph in {root} lies in "
            f"{_folders(depth)}: give one name per level"
        )
    hierarchy, labels = _tree(levels, set(classes.values()))
    if len(labels) == 1:
        raise UserError(
            f"{root} has one class only, {'/'.join(*labels)}: --root must name the folder above "
            "all classes"
        )
    share = None if found.levels else args.test_share or TEST_SHARE
    splits = split_of if found.levels else drawn_test(classes, share, args.seed)
    if found.levels:
        _check_train(root, classes, splits)
    elif "test" not in splits.values():
        raise UserError(f"no class in {root} has two images, one for training and one for testing")
    records = [Record(file, root / file, labels[classes[file]], splits[file]) for file in files]
    digest = hashlib.sha256(hierarchy.text().encode())
    add_images(digest, records)
    options = {"test_share": share} | ({} if args.splits is None else {"splits": args.splits})
    return Source(hierarchy, digest.hexdigest(), lambda folder, jobs: records, options)


def _splits(root, paths, wanted):
    """splits.Found for the folders of all images and the option --splits."""
    if wanted is None:
        return splits_of_folders.found(root, paths)
    if wanted == NO_SPLITS:
        return splits_of_folders.Found()
    splits_of_folders.check_stated(wanted)
    return splits_of_folders.stated(root, paths, wanted)


def _in_splits(root, files, split_of, stated):
    """The files in a split's folder. Prints those that --splits leaves out."""
    others = [file for file in files if split_of[file] is None]
    if others and stated is None:
        raise UserError(f"{root / others[0]} lies outside the folders of the splits: move it")
    if others:
        print(f"left out {len(others)} images outside the folders of --splits: {some(others)}")
    return [file for file in files if split_of[file] is not None]


def _tidy(classes):
    """{file: names of its classes} of {file: its folders}. Prints which folders form one class."""
    tidy = {path: tuple(map(class_name, path)) for path in dict.fromkeys(classes.values())}
    same = {}
    for path, names in tidy.items():
        same.setdefault(names, []).append("/".join(path))
    for paths in same.values():
        if len(paths) > 1:
            print(
                f"one class: {' and '.join(map(ascii, paths))}, which differ in blanks or accents"
            )
    return {file: tidy[path] for file, path in classes.items()}


def _scan(root):
    """The images below root as sorted relative paths, with /. Prints what it leaves out."""
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
                    f"{place / folder} is a link to another folder of {root}: its images would "
                    "occur twice; remove it"
                )
            _check_name(place, folder)
        images = 0
        for file in found:
            if file.startswith("."):
                continue
            path = (place / file).relative_to(root)
            if not looks_like_image(place / file):
                others.append(str(path))
                continue
            _check_name(place, file)
            if (place / file).is_symlink():
                inside(root, path)
            if not (place / file).is_file():
                raise UserError(f"{place / file} is a broken link or not a plain file: remove it")
            files.append(path.as_posix())
            images += 1
        if not folders and not images and place != root:
            empty.append(str(place.relative_to(root)))
    if not files:
        raise UserError(f"{root} has no images ({', '.join(FORMATS)})")
    for names, one, several in (
        (others, "file that is not an image", "files that are not images"),
        (empty, "folder without images", "folders without images"),
    ):
        if names:
            shown = [text if text.isprintable() else ascii(text) for text in sorted(names)]
            print(f"left out {len(names)} {one if len(names) == 1 else several}: {some(shown)}")
    return sorted(files)


def _check_name(place, name):
    """Raises UserError for a name that hierarchy.tsv and the lists of images can't hold."""
    if not (name.strip() and name.isprintable()):
        raise UserError(
            f"the name {ascii(name)} in {place} is blank, not UTF-8 or has invisible characters: "
            "rename it"
        )


def _folders(depth):
    return f"{depth} class folder{'s' * (depth != 1)}"


def _depth(root, classes):
    """The number of class folders above the images; raises UserError if it differs."""
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
    """{path: name} of one level's classes: the shortest unique end of the path."""
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
            f"{len(lacking)} of the classes in {root} have no training images: {some(lacking)}: "
            "each class with test images needs some"
        )
