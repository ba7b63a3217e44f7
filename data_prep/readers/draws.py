"""The test split of a user's own photographs, where nothing says which images it has.

Each class is split by the order of its images' hashes: the share of the test split is exact, up to
rounding; the images of one class have no influence on the split of another; and an image that is
added to a class moves at most one other image of it to the other split.
"""

import argparse
import hashlib

TEST_SHARE = 0.25


def add_test_share(parser, when):
    """Add --test-share. when: where it counts, for its help."""
    parser.add_argument(
        "--test-share",
        type=_share,
        metavar="SHARE",
        help="of each class's images that are for testing, at least one where there are two; "
        f"{when}",
    )


def _share(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("a number between 0 and 1 expected")
    return value


def drawn_test(classes, share, seed):
    """{file: "train" or "test"} of {file: class}: in each class the files with the lowest hashes of
    seed and name are test.
    """
    members = {}
    for file, own in classes.items():
        members.setdefault(own, []).append(file)
    splits = dict.fromkeys(classes, "train")
    for files in members.values():
        files.sort(key=lambda file: hashlib.sha256(f"{seed} {file}".encode()).digest())
        count = min(max(int(share * len(files) + 0.5), 1), len(files) - 1)
        splits.update(dict.fromkeys(files[:count], "test"))
    return splits
