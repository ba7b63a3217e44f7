"""Data sets that no table lists: built by a user, or some levels of one."""

import json
from dataclasses import replace

from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy

from .tables import BBOX, DATASETS, Dataset


def _facts(folder):
    """(name, training images, test images, side of the images) of a folder's manifest.json."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        name = manifest["name"]
        train, test = (manifest["splits"][split]["images"] for split in ("train", "test"))
        side = manifest["options"]["size"]
        if not isinstance(name, str) or {int} != {type(train), type(test), type(side)}:
            raise ValueError("values of other types than build_lmdb.py's")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} has no manifest.json: build the data set with "
            "data_prep/build_lmdb.py, or correct --data"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/manifest.json can't be read ({error!r}): build the data set "
            "again with data_prep/build_lmdb.py"
        ) from None
    if min(train, test) < 1:
        raise UserError(f"{folder} has {train} training and {test} test images: both are needed")
    return name, train, test, side


def built_dataset(folder, net):
    """tables.Dataset of a folder that data_prep/build_lmdb.py made, with the folder's own counts.

    Raises UserError if the folder lacks its manifest or label tree, has no images of a split, or
    images too small for the tables.Net.
    """
    name, train, test, side = _facts(folder)
    tree = Hierarchy.read(folder / "hierarchy.tsv")
    known = DATASETS.get(name.removesuffix(f"_{BBOX}"))
    dataset = Dataset(
        name,
        known.title if known else name,
        tuple(tree.levels),
        tuple(tree.sizes),
        train,
        test,
        folder=folder.as_posix(),
        size=side,
        command=f"data_prep/build_lmdb.py ... --out {folder.as_posix()}",
        mirror=known.mirror if known else True,
        crop=known.crop if known else 0,
    )
    crop = dataset.for_net(net).crop
    if side < crop:
        raise UserError(
            f"the images in {folder} are {side} pixels wide and {net.title} reads "
            f"{crop} x {crop}: build the data set with a larger --size, such as "
            f"{net.stored}"
        )
    return dataset


def restrict(dataset, wanted):
    """The data set with some of its levels.

    wanted: a number, of levels from the finest on, or names of levels with commas between them.
    The finest has to be among them: fc8_fine classifies it. Raises UserError.
    """
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(dataset.levels):
            raise UserError(f"--levels {wanted}: {dataset.title} has {len(dataset.levels)} levels")
        names = dataset.levels[: int(wanted)]
    else:
        names = [name.strip() for name in wanted.split(",")]
        unknown = [name for name in names if name not in dataset.levels]
        if unknown:
            raise UserError(
                f"--levels {wanted}: {dataset.title} has no level {unknown[0]!r}, only "
                f"{', '.join(dataset.levels)}"
            )
    kept = [index for index, name in enumerate(dataset.levels) if name in names]
    if kept[0] != 0:
        raise UserError(
            f"--levels {wanted}: the finest level, {dataset.levels[0]}, has to be "
            "among them, since fc8_fine classifies it"
        )
    return replace(
        dataset,
        levels=tuple(dataset.levels[i] for i in kept),
        sizes=tuple(dataset.sizes[i] for i in kept),
        labels=tuple(i + 1 for i in kept),
        depth=len(dataset.levels),
    )
