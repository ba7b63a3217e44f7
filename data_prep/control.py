"""A control for what a label tree adds: the same data set with a random tree of the same shape.

Images, fine labels and splits stay. The fine classes that have images trade their places in the
tree (label_tree.shuffled), by the seed that BuildOptions.shuffled_parents records.
"""

from data_prep.common.arguments import within
from data_prep.label_tree import shuffled


def add_argument(parser, condition=""):
    """Add --shuffle-parents SEED. condition: words that precede its help."""
    parser.add_argument(
        "--shuffle-parents",
        type=within(int, -(10**9), 10**9),
        metavar="SEED",
        help=f"{condition}let the fine classes that have images trade their places in the tree at "
        "random: a control for what the tree adds",
    )


def default_name(name, seed):
    """The name of the control of a data set, usable in file names."""
    return f"{name}_shuffled_{seed}"


def tree_of(hierarchy, options, labels):
    """The Hierarchy of a build: `hierarchy`, or what options.shuffled_parents makes of it.

    options: BuildOptions; labels: the fine labels of all images. Raises UserError as
    label_tree.shuffled.
    """
    if options.shuffled_parents is None:
        return hierarchy
    return shuffled(hierarchy, options.shuffled_parents, labels)


def kept(real, made, labels):
    """The sentence on how many of the fine classes `labels` have the same parent in two trees."""
    there = sorted(set(labels))
    same = int((real.labels[there, 1] == made.labels[there, 1]).sum())
    return f"{same} of {len(there)} {real.levels[0]} keep their {real.levels[1]}"


def mark(options):
    """The sentence that a data set is a control, or "" if it is not. options: BuildOptions."""
    if options.shuffled_parents is None:
        return ""
    return f"its parents are shuffled, by the seed {options.shuffled_parents}"
