#!/usr/bin/env python3
"""Score a trained net on every image of a data set, each exactly once, on every level.

The net is the solver's own test net (its stages, its data); the order is that of the LMDB, and the
last batch is cut where the images end. For each level of the hierarchy there are two answers: the
level's own classifier, where the net has one, and `from fine`, the ancestor of the predicted fine
class, which plain softmax has as well. Intervals are 95 % (Wilson).

Writes the figures to results/NAME.json and one row per image to results/NAME.tsv.

Example:
    tools/evaluate.py --solver prototxt/cub_googlenet_ours_solver.prototxt
"""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy
from tools import results, scores, solver_net

TOP = 5
MOST = 1024  # images at a time: a batch that no memory holds ends Caffe without a word
PAIRS = 10  # most confused pairs of fine classes that the result lists


def forward(net, scoring, labels):
    """{level: scores, float32, N x classes} of all images.

    labels: N x h, in the order of the LMDB; each batch that Caffe reads is checked against them.
    """
    found = {level: [] for level in scoring.heads}
    with tqdm(total=len(labels), unit=" images", disable=None, leave=False) as progress:
        for start in range(0, len(labels), scoring.batch):
            net.forward()
            part = labels[start : start + scoring.batch]
            if not np.array_equal(net.blobs["label"].data[: len(part)].reshape(part.shape), part):
                raise UserError(
                    f"Caffe reads {scoring.labels} in another order than that of its "
                    "keys: build the data set again"
                )
            for level, blob in scoring.heads.items():
                rows = net.blobs[blob].data[: len(part)].reshape(len(part), -1)
                found[level].append(rows.copy())
            progress.update(len(part))
    return {level: np.concatenate(parts) for level, parts in found.items()}


def _share(right):
    low, high = scores.wilson(int(right.sum()), len(right))
    return {"top1": float(right.mean()), "interval": [low, high], "right": int(right.sum())}


def summarize(hierarchy, labels, outputs):
    """Figures per level, figures of the fine level, and the table of predictions.

    labels: int, N x h; outputs: {level: scores, N x classes}.
    """
    fine = outputs[0].argmax(axis=1)
    from_fine = hierarchy.labels[fine]
    levels, columns = [], {}
    for level, name in enumerate(hierarchy.levels):
        true = columns[name] = labels[:, level]
        entry = {"level": name, "classes": hierarchy.sizes[level], "present": len(np.unique(true))}
        if level in outputs:
            predicted = columns[f"{name}_predicted"] = outputs[level].argmax(axis=1)
            columns[f"{name}_probability"] = scores.softmax(outputs[level]).max(axis=1)
            entry["head"] = _share(predicted == true)
        if level:
            columns[f"{name}_from_fine"] = from_fine[:, level]
            entry["from_fine"] = _share(from_fine[:, level] == true)
            if level in outputs:  # share of images whose two answers on this level are the same
                entry["consistency"] = float((predicted == from_fine[:, level]).mean())
        levels.append(entry)
    return levels, _fine(hierarchy, labels[:, 0], fine, outputs[0]), columns


def _fine(hierarchy, true, predicted, output):
    """What only the fine level has: top 5, recall per class, the pairs most often confused."""
    names, classes = hierarchy.names[0], hierarchy.sizes[0]
    counts = scores.confusion(true, predicted, classes)
    images = counts.sum(axis=1)
    present = np.flatnonzero(images)
    recall = counts.diagonal()[present] / images[present]
    wrong = counts - np.diag(counts.diagonal())
    pairs = [
        (int(wrong.flat[i]), names[i // classes], names[i % classes])
        for i in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    ]
    result = {
        "mean_class_accuracy": float(recall.mean()),
        "recall": {names[c]: float(value) for c, value in zip(present, recall)},
        "confused": [{"images": n, "true": a, "predicted": b} for n, a, b in pairs if n],
    }
    if classes > TOP:
        result[f"top{TOP}"] = float(scores.in_top(output, true, TOP).mean())
    return result


def table(result):
    """The figures as lines of text."""

    def cell(share):
        if not share:
            return "-"
        return f"{share['top1']:7.2%} ({share['interval'][0]:.1%} - {share['interval'][1]:.1%})"

    width = max(len(level["level"]) for level in result["levels"]) + 2
    yield f"{'level':{width}}{'classes':>7}  {'own classifier':26}{'from fine':26}both agree"
    for level in result["levels"]:
        agree = f"{level['consistency']:.1%}" if "consistency" in level else "-"
        yield (
            f"{level['level']:{width}}{level['classes']:7}  {cell(level.get('head')):26}"
            f"{cell(level.get('from_fine')):26}{agree}"
        )
    fine, name = result["fine"], result["levels"][0]["level"]
    top = f"top-{TOP} {fine[f'top{TOP}']:.2%}, " if f"top{TOP}" in fine else ""
    yield f"{name}: {top}mean of the recall of its classes {fine['mean_class_accuracy']:.2%}"


def _check_labels(hierarchy, labels, scoring):
    """UserError unless every row of labels is a row of the hierarchy."""
    fits = labels.shape[1:] == (len(hierarchy.sizes),)
    if not (
        fits
        and labels[:, 0].max() < hierarchy.sizes[0]
        and np.array_equal(hierarchy.labels[labels[:, 0]], labels)
    ):
        raise UserError(
            f"the labels in {scoring.labels} don't follow the hierarchy.tsv beside "
            "them: build the data set again"
        )


def _check_heads(hierarchy, net, scoring):
    """UserError unless every classifier has as many outputs as its level has classes."""
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
    parser.add_argument("--solver", type=Path, required=True, help="what the net was trained with")
    parser.add_argument(
        "--weights", type=Path, help="caffemodel (default: the solver's newest snapshot)"
    )
    parser.add_argument(
        "--split",
        choices=("test", "train"),
        default="test",
        help="images to score (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="JSON",
        help="default: results/NAME.json, for --split train NAME_train.json; NAME "
        "is the solver's without _solver",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=32,
        help="images at a time (default: %(default)s): for speed and memory only",
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (default: the CPU)")
    args = parser.parse_args()
    args.experiment = args.solver.stem.removesuffix("_solver")
    suffix = "_train" if args.split == "train" else ""
    if args.out and args.out.suffix != ".json":
        parser.error(f"--out {args.out}: the name must end in .json")
    args.out = args.out or Path("results", f"{args.experiment}{suffix}.json")
    if not 1 <= args.batch <= MOST:
        parser.error(f"--batch: 1 to {MOST}")
    return args


def main():
    args = parse()
    solver = solver_net.read_solver(args.solver)
    weights = args.weights or solver_net.newest_snapshot(solver)
    scoring = solver_net.scoring_net(solver, args.split, args.batch)
    folder = scoring.images.parent
    hierarchy = Hierarchy.read(folder / "hierarchy.tsv")
    keys, labels = solver_net.read_labels(scoring)
    _check_labels(hierarchy, labels, scoring)
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    net = solver_net.load(scoring, weights)
    _check_heads(hierarchy, net, scoring)
    files.make_way(args.out)

    started = time.perf_counter()
    outputs = forward(net, scoring, labels)
    seconds = time.perf_counter() - started
    if not all(np.isfinite(output).all() for output in outputs.values()):
        raise UserError(f"{weights} gives scores that are not finite: the training has diverged")
    levels, fine, columns = summarize(hierarchy, labels, outputs)
    result = {
        "experiment": args.experiment,
        "solver": str(args.solver),
        "net": solver.net,
        "stages": list(scoring.stages),
        "weights": str(weights),
        "weights_sha256": files.sha256(weights),
        "data": str(folder),
        "split": args.split,
        "images": len(keys),
        "levels": levels,
        "fine": fine,
        "seconds": round(seconds, 3),
    }
    results.write(args.out, result, {"key": keys, **columns})
    print(f"{args.experiment}: {weights} on {len(keys)} {args.split} images of {folder}")
    print("\n".join(table(result)))
    print(
        f"{seconds:.1f} s, {len(keys) / seconds:.0f} images/s; "
        f"wrote {args.out} and {results.table_of(args.out)}"
    )


if __name__ == "__main__":
    command(main)
