"""Data sets that a user built, and data sets with some of their levels."""

from dataclasses import replace

from data_prep import control, manifest
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy, shuffled_name

from .data import BBOX, Built, Cached, Level
from .tables import DATASETS


def built_dataset(folder, net, test_split="test"):
    """data.Built or data.Cached of a folder that a command here made, with the folder's own counts.

    test_split: what tests during training read. Raises UserError if the folder lacks its manifest,
    label tree or that split, if its images are too small for the tables.Net, or if it has features
    where the net reads images or the reverse.
    """
    facts = manifest.read(folder)
    if test_split not in facts.splits:
        raise UserError(
            f"{folder} has no {test_split} split: build it with --validation N, which draws one, "
            "or from a source that has one"
        )
    name, side = facts.name, min(facts.options.sides)
    labels = Hierarchy.read(folder / "hierarchy.tsv")
    known = DATASETS.get(name.removesuffix(f"_{BBOX}"))
    title, seed = known.title if known else name, facts.options.shuffled_parents
    if seed is not None:
        title = shuffled_name(title, seed)
        if known:  # own data sets are named after their folders
            name = control.default_name(name, seed)
    common = dict(
        name=name,
        title=title,
        base=known.name if known else None,
        tree=tuple(map(Level, labels.levels, labels.sizes)),
        train=facts.splits["train"].images // len(facts.options.sides),  # of one pass
        test=facts.splits[test_split].images,
        test_split=test_split,
        folder=folder.as_posix(),
    )
    if bool(facts.channels) != net.reads_features:
        raise UserError(
            f"{folder} holds {'features' if facts.channels else 'images'}, and {net.title} reads "
            f"{'features (tools/cache_features.py)' if net.reads_features else 'images'}: choose "
            "another --net or --data"
        )
    if facts.channels:
        return Cached(**common, channels=facts.channels)
    dataset = Built(
        **common,
        mirror=known.mirror if known else True,
        small_crop=known.small_crop if known else None,
        side=side,
    )
    (setting,) = dataset.settings(net)
    if side < setting.crop:
        raise UserError(
            f"the images in {folder} are {side} pixels wide and {net.title} reads "
            f"{setting.crop} x {setting.crop}: build the data set with a larger --size, such as "
            f"{net.stored}"
        )
    return dataset


def restrict(dataset, wanted):
    """The data set with classifiers for some of its levels only.

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
    if dataset.levels[0] not in names:
        raise UserError(
            f"--levels {wanted}: the finest level, {dataset.levels[0]}, has to be "
            "among them, since fc8_fine classifies it"
        )
    tree = (replace(level, classified=level.name in names) for level in dataset.tree)
    return replace(dataset, tree=tuple(tree))
