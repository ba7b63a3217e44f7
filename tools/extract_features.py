#!/usr/bin/env python3
"""Compute a blob of a trained net for every image of a split, or of photographs, into a file.

The default blob is the net's feature, which the large-margin loss and the fine classifier read.
Images of a split are read by the net's own Data layers, photographs as tools/predict.py reads them.

NAME.npz holds the arrays features (float32, N x D; N x C x H x W for maps), keys, labels (N x h,
fine to coarse; -1 for photographs), levels, and names_LEVEL, the classes of each level:
    with np.load("features.npz") as found: features, labels = found["features"], found["labels"]
NAME.npy holds the features alone, with keys and labels in NAME.tsv. Files that can't be used are
listed and left out; the exit status is then 1. tools/neighbors.py searches in what this writes.

Examples:
    tools/extract_features.py --solver prototxt/cub_googlenet_ours_solver.prototxt --out cub.npz
    tools/extract_features.py --solver prototxt/cub_googlenet_ours_solver.prototxt \\
        --out holiday.npz holiday/
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from data_prep.common import progress
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.records import SPLITS
from tools import snapshots, solver_net
from tools.recognition import features, options, photographs
from tools.recognition.split_features import SplitFeatures


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_model(parser, engines=False)
    options.add_photographs(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="images of the solver's data set (default: test, unless photographs are named)",
    )
    parser.add_argument("--blob", metavar="NAME", help="blob to keep (default: the feature)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, .npz or .npy"
    )
    args = parser.parse_args()
    args.of_photographs = bool(args.photographs or args.list)
    if args.of_photographs and args.split:
        parser.error("--split and photographs exclude each other")
    if args.model and not args.of_photographs:
        parser.error("--model needs photographs or a --list: an exported model has no splits")
    args.split = args.split or "test"
    return args


def of_split(args):
    """Write the features of a split; returns its number of images, of unusable ones, and paths."""
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    weights = args.weights or snapshots.newest_model(solver_net.read_solver(args.solver))
    found = SplitFeatures(args.solver, weights, args.split, args.blob, args.batch)
    hierarchy = Hierarchy.read(found.folder / "hierarchy.tsv")
    if found.labels.shape[1] != len(hierarchy.levels):
        raise UserError(f"the labels of {found.folder} do not match its hierarchy.tsv: build again")
    with (
        features.writer(args.out, hierarchy, found.blob, str(weights)) as out,
        progress.bar("features", "images", len(found.keys)) as bar,
    ):
        for keys, labels, rows in found.batches():
            out.add(keys, labels, checked(rows, weights))
            bar.update(len(keys))
        return len(found.keys), 0, found.blob, out.finish()


def of_photographs(args):
    """As of_split, of photographs."""
    found = options.open_photographs(args)
    model = options.open_model(args)
    blob = args.blob or model.feature
    if blob is None:
        raise UserError(f"the feature of {model.source} is not known: give --blob")
    model.engine.width(blob)  # a wrong name ends it before any work
    bad = right = 0
    with (
        features.writer(args.out, model.hierarchy, blob, model.source) as out,
        progress.bar("features", "photographs", len(found)) as bar,
    ):
        for part, unusable in photographs.batches(
            found, model.preprocessing, 1, args.jobs, args.batch
        ):
            for photograph, reason in unusable:
                bar.write(f"left out {photograph.name}: {reason}", file=sys.stderr)
            bad += len(unusable)
            if part is not None:
                rows = checked(model.engine.compute(part.blob, [blob])[blob], model.source)
                out.add([each.name for each in part.photographs], None, rows)
                right += len(rows)
            bar.update(len(unusable) + (len(rows) if part else 0))
        if not right:
            raise UserError(f"none of the {bad} files is a photograph that can be used")
        return right, bad, blob, out.finish()


def checked(rows, source):
    """The rows, N x D instead of N x D x 1 x 1; raises UserError for values that are not finite."""
    if not np.isfinite(rows).all():
        raise UserError(f"{source} gives features that are not finite")
    return rows.reshape(len(rows), -1) if set(rows.shape[2:]) <= {1} else rows


def main():
    args = parse()
    features.check_out(args.out)
    done = of_photographs(args) if args.of_photographs else of_split(args)
    right, bad, blob, paths = done
    print(f"{blob} of {right} images; wrote {' and '.join(map(str, paths))}")
    if bad:
        print(
            f"error: {bad} of {right + bad} files can't be used: they are listed above",
            file=sys.stderr,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    command(main)
