"""Times the metric losses, against the matrix products of any all-pairs loss and other losses."""

import functools
import json

import numpy as np

from python_layers import center, contrastive, glm, glm_loss, minmax, triplet
from tools.nets import tables

from . import counterparts
from .timing import add_runs, alternating_medians, positive

# samples, dimensions: GoogLeNet's feature; AlexNet's and VGG's; and a bilinear CNN's
SIZES = [(128, 1024), (128, 4096), (256, 4096), (64, 262144)]
OF_CLASS, SIBLINGS = 2, 4  # samples of a class; classes of a parent, parents of a grandparent


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
    }


def _products(features, coefficients):
    """The two matrix products of any loss of all pairs: X X^T (n x n) and C X (n x d)."""
    return features @ features.T, coefficients @ features


def run(options):
    """Time the metric losses on random rectified features of a three-level tree, and X X^T and C X.

    Any loss of all pairs needs the first product for its distances and the second for its gradient;
    both are float32, as Caffe's blobs. `ratio` is forward + backward divided by the two products.
    `others` is forward + backward of the closest loss in pytorch-metric-learning (see
    tools/benchmarks/counterparts.py) with as many threads, and `speed` is `others` divided by ours;
    both are - without `.venv/bin/pip install -r docker/requirements-compare.txt`.
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
            functions += [others[name]] if others else []
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
