#!/usr/bin/env python3
"""List the nearest images of each image, by the features of tools/extract_features.py.

Examples:
    tools/neighbors.py cub.npz --of 00000012
    tools/neighbors.py cub.npz --queries holiday.npz --k 5
"""

import argparse
from pathlib import Path

import numpy as np

from data_prep.common import text_table
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools.recognition import features

METRICS = {"cosine": "similarity", "euclidean": "distance"}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("features", type=Path, help="features to search in, .npz")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--of", nargs="+", metavar="KEY", help="images to search for, by key")
    chosen.add_argument(
        "--queries",
        type=Path,
        metavar="NPZ",
        help="features to search for (default: each of those searched in, except itself)",
    )
    parser.add_argument(
        "--k", type=within(int, 1, 10_000), default=5, help="neighbors (default: %(default)s)"
    )
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default="cosine",
        help="cosine similarity (the default), or euclidean distance",
    )
    return parser.parse_args()


def queries_of(args, found):
    """(keys, features, numbers in `found` or -1) of the images to search for."""
    if args.queries:
        others = features.read(args.queries)
        if others.features.shape[1:] != found.features.shape[1:]:
            raise UserError(
                f"the features of {args.queries} are {others.features.shape[1:]}, those of "
                f"{args.features} {found.features.shape[1:]}: of another blob or net"
            )
        return others.keys, others.features, None
    numbers = np.arange(len(found.keys))
    if args.of:
        missing = [key for key in args.of if key not in found.keys]
        if missing:
            raise UserError(f"{args.features} has no image {missing[0]!r}")
        numbers = np.array([int(np.flatnonzero(found.keys == key)[0]) for key in args.of])
    return found.keys[numbers], found.features[numbers], numbers


def class_of(found, number):
    """Name of an image's fine class, or nothing."""
    label = found.labels[number, 0]
    return found.names[0][label] if label >= 0 else ""


def main():
    args = parse()
    found = features.read(args.features)
    keys, queries, own = queries_of(args, found)
    if not len(keys) or len(found.keys) < 1 + (own is not None):
        raise UserError(f"{args.features} has no images to compare with")
    numbers, values = features.nearest(
        found.features, queries, args.k, metric=args.metric, skip=own
    )
    rows = [("image", "nearest", METRICS[args.metric], found.levels[0])]
    for key, near, value in zip(keys, numbers, values):
        for position, (number, one) in enumerate(zip(near, value)):
            shown = "" if position else key
            rows.append((shown, found.keys[number], f"{one:.4f}", class_of(found, number)))
    print("\n".join(text_table.aligned(rows, right={2})))


if __name__ == "__main__":
    command(main)
