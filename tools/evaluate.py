#!/usr/bin/env python3
"""Score a trained net on every image of a data set, each exactly once, on every level.

The net is the solver's own test net (its stages, its data). Images are read in the order of the
LMDB, and the last batch ends with the last image. Each level of the hierarchy has two predictions:
that of its own classifier, if the net has one, and `from fine`, the ancestor of the predicted fine
class, which plain softmax provides too. Their intervals are 95 % (Wilson).

Below: the answers on all levels by each way to decode (own: each level's classifier; fine: the fine
class and its ancestors; joint: the path of the highest product of all levels' probabilities; risk:
the class of least expected distance). Right paths: all levels right; valid: a path in the tree. The
distance of two classes is the height of their lowest common ancestor, 1 for siblings; severity is
the mean distance of the mistakes; F1 is hierarchical. Retrieval looks for images of the same class
by the cosine of the feature. The JSON file has more: top-k and calibration per level, intervals by
the bootstrap, distance @k, precision and recall. tools/metrics defines each figure.

Writes the figures to results/NAME.json and one row per image to results/NAME.tsv.

Examples:
    tools/evaluate.py --solver prototxt/cub_googlenet_ours_solver.prototxt
    tools/evaluate.py --solver prototxt/cub_googlenet_ours_solver.prototxt --crops 10 --features
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.common import files, text_table
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.records import SPLITS
from tools import features, results, scoring, snapshots, solver_net, summary
from tools.metrics.collect import Collector
from tools.metrics.intervals import Bootstrap
from tools.metrics.retrieval import retrieval
from tools.recognition.preprocessing import CROPS

MOST = 1024  # largest batch; Caffe aborts if a batch does not fit into memory


def table(result):
    """The figures of a results.Result as lines of text."""

    def cells(share):
        if not share:
            return "-", ""
        low, high = share.interval
        return f"{share.top1:.2%}", f"({low:.1%} - {high:.1%})"

    rows = [("level", "classes", "own classifier", "", "from fine", "", "both agree")]
    for level in result.levels:
        agree = "-" if level.consistency is None else f"{level.consistency:.1%}"
        rows.append(
            (level.level, str(level.classes), *cells(level.head), *cells(level.from_fine), agree)
        )
    yield from text_table.aligned(rows, right={1})
    top = "" if result.fine.top5 is None else f"top-{summary.TOP} {result.fine.top5:.2%}, "
    yield (
        f"{result.levels[0].level}: {top}mean of the recall of its classes "
        f"{result.fine.mean_class_accuracy:.2%}"
    )
    rows = [("decoded", "right paths", "valid", "distance", "severity", "F1")]
    for name, one in result.decodings.items():
        severity = "-" if one.severity is None else f"{one.severity.value:.3f}"
        rows.append(
            (
                name,
                f"{one.right_paths.value:.2%}",
                f"{one.valid_paths.value:.1%}",
                f"{one.distance.value:.3f}",
                severity,
                f"{one.f1.value:.2%}",
            )
        )
    yield from text_table.aligned(rows)
    rows = [("", *(level.level for level in result.levels))]
    errors = [level.calibration and level.calibration.ece.value for level in result.levels]
    rows.append(("calibration error", *("-" if e is None else f"{e:.1%}" for e in errors)))
    found = {one.level: one for one in result.retrieval or ()}
    for title, figure in (
        ("retrieval, recall@1", lambda one: one.recall["1"].value),
        ("retrieval, mAP", lambda one: one.mean_average_precision.value),
    ):
        if found:
            cells = [found.get(level.level) for level in result.levels]
            rows.append((title, *("-" if one is None else f"{figure(one):.1%}" for one in cells)))
    yield from text_table.aligned(rows)


def _check_labels(hierarchy, labels, scored):
    """Raises UserError unless every row of labels is a row of the hierarchy."""
    fits = labels.shape[1:] == (len(hierarchy.sizes),)
    if not (
        fits
        and labels[:, 0].max() < hierarchy.sizes[0]
        and np.array_equal(hierarchy.labels[labels[:, 0]], labels)
    ):
        raise UserError(
            f"the labels in {scored.labels} do not match the hierarchy.tsv beside "
            "them: build the data set again"
        )


def _check_heads(hierarchy, net, scored):
    """Raises UserError unless every classifier has as many outputs as its level has classes."""
    for level, name in scored.heads.items():
        wide = net.blobs[name].shape[1]
        if level >= len(hierarchy.sizes) or wide != hierarchy.sizes[level]:
            raise UserError(
                f"{name} has {wide} classes, the hierarchy of {scored.images.parent} "
                f"has {', '.join(map(str, hierarchy.sizes))}: the net is for another "
                "data set"
            )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solver", type=Path, required=True, help="solver with which the net was trained"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="caffemodel (default: that of the solver's newest whole snapshot)",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="images to score (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="JSON",
        help="default: results/NAME.json, for another split NAME_SPLIT.json; NAME "
        "is the solver's without _solver",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=32,
        help="batch size (default: %(default)s); affects speed and memory, not the results",
    )
    parser.add_argument(
        "--crops",
        type=int,
        choices=CROPS,
        default=1,
        help="crops of each image, whose probabilities are averaged: 1, the center; 5, and the "
        "corners; 10, and their mirror images (default: %(default)s)",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="write the images' features to NAME_features.npy, for tools/report.py",
    )
    parser.add_argument(
        "--no-retrieval",
        dest="retrieval",
        action="store_false",
        help="leave out retrieval, which takes minutes for very large sets or features",
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (default: the CPU)")
    args = parser.parse_args()
    args.experiment = args.solver.stem.removesuffix("_solver")
    suffix = "" if args.split == "test" else f"_{args.split}"
    if args.out and args.out.suffix != ".json":
        parser.error(f"--out {args.out}: the name must end in .json")
    args.out = args.out or Path("results", f"{args.experiment}{suffix}.json")
    if not 1 <= args.batch <= MOST:
        parser.error(f"--batch: 1 to {MOST}")
    return args


def main():
    args = parse()
    solver = solver_net.read_solver(args.solver)
    weights = args.weights or snapshots.newest_model(solver)
    scored = solver_net.scoring_net(solver, args.split, args.batch)
    scoring.check_crops(solver, scored, solver_net.read_net(solver), args.crops)
    folder = scored.images.parent
    hierarchy = Hierarchy.read(folder / "hierarchy.tsv")
    keys, labels = solver_net.read_labels(scored)
    _check_labels(hierarchy, labels, scored)
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    run = scoring.Run(scored, weights, args.crops)
    _check_heads(hierarchy, run.net, scored)
    results.make_way(args.out, args.features)

    started = time.perf_counter()
    found = Collector(hierarchy, labels, scored.heads)
    with features.writer(features.path_of(args.out), len(keys)) as kept:
        for batch in run.batches(labels):
            if not all(np.isfinite(output).all() for output in batch.outputs.values()):
                raise UserError(
                    f"{weights} gives scores that are not finite: training has diverged"
                )
            found.add(batch.start, batch.outputs)
            if args.features or args.retrieval:
                kept.add(batch.feature)
        seconds = time.perf_counter() - started
        levels, answers = summary.levels(found)
        decodings, distance_at = summary.decodings(found)
        result = results.Result(
            experiment=args.experiment,
            solver=str(args.solver),
            net=solver.net,
            stages=tuple(scored.stages),
            weights=str(weights),
            weights_sha256=files.sha256(weights),
            data=str(folder),
            split=args.split,
            images=len(keys),
            levels=tuple(levels),
            fine=summary.fine(found),
            seconds=round(seconds, 3),
            crops=args.crops,
            decodings=decodings,
            distance_at=distance_at,
            bootstrap=Bootstrap(),
        )
        if args.retrieval:
            near = retrieval(kept.read(), labels, hierarchy.levels)
            result = replace(result, retrieval=tuple(near))
        if args.features:
            result = replace(result, features_sha256=kept.publish())
        results.write(args.out, result, results.Predictions(np.array(keys), tuple(answers)))
    print(f"{args.experiment}: {weights} on {len(keys)} {args.split} images of {folder}")
    print("\n".join(table(result)))
    print(
        f"{seconds:.1f} s, {len(keys) / seconds:.0f} images/s; wrote {args.out}"
        + (f", {features.path_of(args.out)}" if args.features else "")
        + f" and {results.table_of(args.out)}"
    )


if __name__ == "__main__":
    command(main)
