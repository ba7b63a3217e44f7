#!/usr/bin/env python3
"""Score a trained net on every image of a data set, each exactly once, on every level.

The net is the solver's own test net (its stages, its data). Images are read in the order of the
LMDB, and the last batch ends with the last image. Each level of the hierarchy has two predictions:
that of its own classifier, if the net has one, and `from fine`, the ancestor of the predicted fine
class, which plain softmax provides too. Intervals are 95 % (Wilson).

Writes the figures to results/NAME.json and one row per image to results/NAME.tsv.

Example:
    tools/evaluate.py --solver prototxt/cub_googlenet_ours_solver.prototxt
"""

import argparse
import time
from pathlib import Path

import numpy as np

from data_prep.common import files, progress, text_table
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.records import SPLITS
from tools import caffe_errors, results, scores, snapshots, solver_net

TOP = 5
MOST = 1024  # largest batch; Caffe aborts if a batch does not fit into memory
PAIRS = 10  # most confused pairs of fine classes that the result lists


def forward(net, scoring, labels):
    """{level: scores, float32, N x classes} of all images.

    labels: N x h, in the order of the LMDB; each batch that Caffe reads is checked against them.
    """
    found = {level: [] for level in scoring.heads}
    with progress.bar("evaluate", "images", len(labels)) as bar:
        for start in range(0, len(labels), scoring.batch):
            with caffe_errors.refusals(f"Caffe can't score {scoring.images}"):
                net.forward()
            part = labels[start : start + scoring.batch]
            if not np.array_equal(net.blobs["label"].data[: len(part)].reshape(part.shape), part):
                raise UserError(
                    f"Caffe does not read {scoring.labels} in the order of its "
                    "keys: build the data set again"
                )
            for level, blob in scoring.heads.items():
                rows = net.blobs[blob].data[: len(part)].reshape(len(part), -1)
                found[level].append(rows.copy())
            bar.update(len(part))
    return {level: np.concatenate(parts) for level, parts in found.items()}


def _share(right):
    """results.Share of a bool per image."""
    count = int(right.sum())
    return results.Share(count / len(right), scores.wilson(count, len(right)), count)


def summarize(hierarchy, labels, outputs):
    """([results.Level], results.Fine, [results.Answers]), per level from fine to coarse.

    labels: int, N x h; outputs: {level: scores, N x classes}.
    """
    fine = outputs[0].argmax(axis=1)  # N
    from_fine = hierarchy.labels[fine]  # N x h
    levels, answers = [], []
    for j, name in enumerate(hierarchy.levels):
        true, output, ancestor = labels[:, j], outputs.get(j), from_fine[:, j] if j else None
        own = None if output is None else output.argmax(axis=1)
        levels.append(
            results.Level(
                name,
                classes=hierarchy.sizes[j],
                present=len(np.unique(true)),
                head=None if own is None else _share(own == true),
                from_fine=None if ancestor is None else _share(ancestor == true),
                consistency=None
                if own is None or ancestor is None
                else float((own == ancestor).mean()),
            )
        )
        sure = None if own is None else scores.softmax(output).max(axis=1)
        answers.append(results.Answers(true, own, sure, ancestor))
    return levels, _fine(hierarchy, labels[:, 0], fine, outputs[0]), answers


def _fine(hierarchy, true, predicted, output):
    """results.Fine; true, predicted: N, fine classes; output: N x classes."""
    names, classes = hierarchy.names[0], hierarchy.sizes[0]
    counts = scores.confusion(true, predicted, classes)  # true class x predicted class
    images = counts.sum(axis=1)
    present = np.flatnonzero(images)
    recall = counts.diagonal()[present] / images[present]
    wrong = counts - np.diag(counts.diagonal())
    worst = [
        (int(wrong.flat[i]), *divmod(int(i), classes))
        for i in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    ]
    return results.Fine(
        mean_class_accuracy=float(recall.mean()),
        recall={names[c]: float(value) for c, value in zip(present, recall)},
        confused=tuple(results.Confusion(n, names[a], names[b]) for n, a, b in worst if n),
        top5=float(scores.in_top(output, true, TOP).mean()) if classes > TOP else None,
    )


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
    top = "" if result.fine.top5 is None else f"top-{TOP} {result.fine.top5:.2%}, "
    yield (
        f"{result.levels[0].level}: {top}mean of the recall of its classes "
        f"{result.fine.mean_class_accuracy:.2%}"
    )


def _check_labels(hierarchy, labels, scoring):
    """Raises UserError unless every row of labels is a row of the hierarchy."""
    fits = labels.shape[1:] == (len(hierarchy.sizes),)
    if not (
        fits
        and labels[:, 0].max() < hierarchy.sizes[0]
        and np.array_equal(hierarchy.labels[labels[:, 0]], labels)
    ):
        raise UserError(
            f"the labels in {scoring.labels} do not match the hierarchy.tsv beside "
            "them: build the data set again"
        )


def _check_heads(hierarchy, net, scoring):
    """Raises UserError unless every classifier has as many outputs as its level has classes."""
    for level, name in scoring.heads.items():
        wide = net.blobs[name].shape[1]
        if level >= len(hierarchy.sizes) or wide != hierarchy.sizes[level]:
            raise UserError(
                f"{name} has {wide} classes, the hierarchy of {scoring.images.parent} "
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
    scoring = solver_net.scoring_net(solver, args.split, args.batch)
    folder = scoring.images.parent
    hierarchy = Hierarchy.read(folder / "hierarchy.tsv")
    keys, labels = solver_net.read_labels(scoring)
    _check_labels(hierarchy, labels, scoring)
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    net = solver_net.load(scoring, weights)
    _check_heads(hierarchy, net, scoring)
    results.make_way(args.out)

    started = time.perf_counter()
    outputs = forward(net, scoring, labels)
    seconds = time.perf_counter() - started
    if not all(np.isfinite(output).all() for output in outputs.values()):
        raise UserError(f"{weights} gives scores that are not finite: training has diverged")
    levels, fine, answers = summarize(hierarchy, labels, outputs)
    result = results.Result(
        experiment=args.experiment,
        solver=str(args.solver),
        net=solver.net,
        stages=tuple(scoring.stages),
        weights=str(weights),
        weights_sha256=files.sha256(weights),
        data=str(folder),
        split=args.split,
        images=len(keys),
        levels=tuple(levels),
        fine=fine,
        seconds=round(seconds, 3),
    )
    results.write(args.out, result, results.Predictions(np.array(keys), tuple(answers)))
    print(f"{args.experiment}: {weights} on {len(keys)} {args.split} images of {folder}")
    print("\n".join(table(result)))
    print(
        f"{seconds:.1f} s, {len(keys) / seconds:.0f} images/s; "
        f"wrote {args.out} and {results.table_of(args.out)}"
    )


if __name__ == "__main__":
    command(main)
