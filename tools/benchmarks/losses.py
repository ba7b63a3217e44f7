"""Times the losses; those of features against the products of any all-pairs loss, and others'."""

import functools
import json

import numpy as np

from python_layers import (
    bgl,
    center,
    contrastive,
    glm,
    glm_loss,
    gtl,
    hierarchical,
    minmax,
    triplet,
)
from python_layers.label_tree import LabelTree
from tools.nets import tables

from . import counterparts
from .timing import add_runs, alternating_medians, positive

# samples, dimensions: of AlexNet at batch 32, GoogLeNet, AlexNet and VGG, and a bilinear CNN
SIZES = [(32, 4096), (128, 1024), (128, 4096), (256, 4096), (64, 262144)]
OF_CLASS, SIBLINGS = 2, 4  # samples of a class; classes of a parent, parents of a grandparent
TREES, BATCHES = ("cars", "aircraft", "cub"), (32, 128)  # of the losses of scores


def losses_of(features, labels, classes):
    """{name: function() -> LossTerms} of every metric loss, with the parameters of the nets."""
    fine, of_classes = labels[0], tables.Labels((classes,), "")
    centers = np.zeros((classes, features.shape[1]), features.dtype)
    of_fine = {
        "contrastive": contrastive.forward,
        "triplet": triplet.forward,
        "minmax": minmax.forward,
    }
    return {
        "glm": lambda: glm.forward(
            features,
            labels,
            **glm_loss.settings(json.dumps(tables.glm_parameters(len(labels))), len(labels)),
        ),
        **{
            name: lambda name=name, forward=forward: forward(
                features, [fine], **tables.LOSSES[name].parameters(of_classes)
            )
            for name, forward in of_fine.items()
        },
        "center": lambda: center.forward(features, [fine], centers),
        "gtl": lambda: gtl.forward(
            features,
            labels,
            **tables.LOSSES["gtl"].parameters(tables.Labels((classes,) * len(labels), "")),
        ),
    }


def _tree(sizes):
    """A LabelTree of these numbers of classes per level, fine to coarse."""
    columns = [np.arange(sizes[0])]
    for finer, size in zip(sizes, sizes[1:]):
        columns.append((np.arange(finer) % size)[columns[-1]])
    return LabelTree("", tuple(map(str, range(len(sizes)))), np.stack(columns, axis=1))


def scored_of(sizes, samples, rng):
    """{name: function() -> ScoreTerms, with gradients} of every loss of scores, on a tree."""
    tree = _tree(sizes)
    scores = [rng.standard_normal((samples, size), np.float32) for size in sizes]
    fine = rng.integers(sizes[0], size=samples)
    labels = [column[fine] for column in tree.ancestors.T]
    graphs = list(tree.ancestors.T[1:])
    parents, children = tree.parents(), tree.children()
    targets = hierarchical.soft_targets(tree.distances(), 10)
    own = scores[:1], labels[:1]
    return {
        "bgl": lambda: bgl.forward(scores, labels, graphs),
        "hxe": lambda: hierarchical.cross_entropy(*own, tree.ancestors, 0.1),
        "soft_label": lambda: hierarchical.soft_labels(*own, targets),
        "conditional_softmax": lambda: hierarchical.conditional(
            scores, labels[:1], tree.ancestors, parents, children
        ),
    }


def _products(features, coefficients):
    """The two matrix products of any loss of all pairs: X X^T (n x n) and C X (n x d)."""
    return features @ features.T, coefficients @ features


def run(options):
    """Time the losses.

    Those of features on random rectified features of a three-level tree, beside X X^T and C X.
    Any loss of all pairs needs the first product for its distances and the second for its gradient;
    both are float32, as Caffe's blobs. `ratio` is forward + backward divided by the two products.
    `others` is forward + backward of the closest loss in pytorch-metric-learning (see
    tools/benchmarks/counterparts.py) with as many threads, and `speed` is `others` divided by ours;
    both are - without `.venv/bin/pip install -r docker/requirements-compare.txt`, and for a loss
    that it lacks. Losses of scores have the numbers of classes of a data set.
    """
    rng = np.random.default_rng(0)
    absent = counterparts.missing()
    print(
        f"milliseconds, medians of {options.runs} runs; {OF_CLASS} samples of a class; "
        f"{counterparts.threads()} threads"
        + (f"; no others without {' and '.join(absent)}" if absent else "")
    )
    print(
        f"{'samples':>8} {'dimensions':>10} {'products':>8}  {'loss':11} {'forward':>8} "
        f"{'backward':>8} {'ratio':>6} {'others':>8} {'speed':>6}"
    )
    for samples, dimensions in options.size or SIZES:
        classes = -(-samples // OF_CLASS)
        features = np.maximum(rng.standard_normal((samples, dimensions), np.float32), 0)
        fine = np.arange(samples) % classes
        labels = [fine, fine // SIBLINGS, fine // SIBLINGS**2]
        coefficients = rng.standard_normal((samples, samples), np.float32)
        of_classes = tables.Labels((classes,), "")
        others = (
            {}
            if absent
            else counterparts.losses_of(
                features,
                fine,
                classes,
                {name: loss.parameters(of_classes) for name, loss in tables.LOSSES.items()},
            )
        )
        for name, forward in losses_of(features, labels, classes).items():
            functions = [
                forward,
                functools.partial(forward().gradient, features),
                functools.partial(_products, features, coefficients),
            ]
            functions += [others[name]] if name in others else []
            ahead, back, products, *other = (
                1e3 * seconds for seconds in alternating_medians(functions, options.runs)
            )
            ours = ahead + back
            beside = f"{other[0]:8.2f} {other[0] / ours:6.2f}" if other else f"{'-':>8} {'-':>6}"
            print(
                f"{samples:8} {dimensions:10} {products:8.2f}  {name:11} {ahead:8.2f} "
                f"{back:8.2f} {ours / products:6.2f} {beside}",
                flush=True,
            )
    print(f"{'samples':>8} {'classes':>10}  {'loss':19} {'with gradient':>13}")
    for dataset in TREES:
        sizes = tables.DATASETS[dataset].sizes
        for samples in BATCHES:
            functions = scored_of(sizes, samples, rng)
            seconds = alternating_medians(functions.values(), options.runs)
            for name, one in zip(functions, seconds):
                classes = "-".join(map(str, sizes))
                print(f"{samples:8} {classes:>10}  {name:19} {1e3 * one:13.2f}", flush=True)


def add_options(parser):
    add_runs(parser, 30)
    parser.add_argument(
        "--size",
        type=positive,
        nargs=2,
        action="append",
        metavar=("N", "D"),
        help="samples and dimensions; may be repeated (default: "
        + ", ".join(f"{n} {d}" for n, d in SIZES)
        + ")",
    )
