"""Draws a test split for a user's own photographs that have none.

Each class is split by the order of its images' hashes. The share of the test split is exact, up to
rounding; classes do not influence each other; and an image added to a class moves at most one other
image of the class to the other split.
"""

import argparse
import hashlib

TEST_SHARE = 0.25


def add_test_share(parser, when):
    """Add --test-share. when: the condition under which it applies, for its help."""
    parser.add_argument(
        "--test-share",
        type=_share,
        metavar="SHARE",
        help=f"fraction of each class's images used for testing, at least one image of two; {when}",
    )


def _share(text):
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("expected a number between 0 and 1")
    return value


def drawn_test(classes, share, seed):
    """{file: "train" or "test"} of {file: class}.

    In each class, the files with the lowest hashes of seed and name are test.
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
