"""Times the GLM loss with a memory of earlier batches, and without one."""

import itertools
import json

import numpy as np

from python_layers import glm, glm_loss
from python_layers.memory import SampleMemory
from tools.nets import tables

from .timing import add_runs, alternating_medians, positive

KEPT = [128, 512, 1024]
OF_PARENT = 22  # classes of a parent, as Stanford Cars' 196 have 9 parents
BATCHES = 4  # used in turn


def batches_of(rng, samples, dimensions, classes):
    """[(features, labels)] of a two-level tree, rectified features around a center per class."""
    centers = rng.standard_normal((classes, dimensions), np.float32)
    found = []
    for _ in range(BATCHES):
        fine = rng.integers(classes, size=samples)
        features = rng.standard_normal((samples, dimensions), np.float32) + 0.3 * centers[fine]
        found.append((np.maximum(features, 0), [fine, fine // OF_PARENT]))
    return found


def training_pass(batches, kept):
    """A function that runs forward, backward and memory.keep() on the next batch, memory full."""
    memory = SampleMemory(kept) if kept else None
    parameters = glm_loss.settings(json.dumps(tables.glm_parameters(2)), 2)
    coming = itertools.cycle(batches)

    def one():
        features, labels = next(coming)
        own, more = slice(len(features)), {}
        if memory:
            features, labels, gram = memory.join(features, labels)
            more = {"anchors": own.stop, "gram": gram}
        glm.forward(features, labels, **parameters, **more).gradient(features, own=own)
        if memory:
            memory.keep()

    for _ in range(-(-kept // len(batches[0][0]))):
        one()
    return one


def products_of(rng, features, kept):
    """A function that computes the two products of a batch's features with all features."""
    own = len(features)
    union = np.concatenate([features, rng.standard_normal((kept, features.shape[1]), np.float32)])
    coefficients = rng.standard_normal((own, own + kept), np.float32)
    return lambda: (features @ union.T, coefficients @ union)


def run(options):
    """Time a training pass of the GLM loss with "memory": N, for several N, and without.

    `products` are the two float32 products, X Y^T and C Y, that any loss of the batch's features X
    and all features Y needs; `times` is the pass divided by the one without memory.
    """
    rng = np.random.default_rng(0)
    batches = batches_of(rng, options.samples, options.dimensions, options.classes)
    sizes = [0, *(options.kept or KEPT)]
    functions = [training_pass(batches, kept) for kept in sizes]
    functions += [products_of(rng, batches[0][0], kept) for kept in sizes]
    medians = [1e3 * seconds for seconds in alternating_medians(functions, options.runs)]
    print(
        f"batches of {options.samples} x {options.dimensions}, {options.classes} classes; "
        f"milliseconds, medians of {options.runs} runs"
    )
    print(f"{'memory':>6} {'pass':>8} {'products':>8} {'ratio':>6} {'times':>6}")
    for kept, ours, products in zip(sizes, medians, medians[len(sizes) :]):
        print(
            f"{kept:6} {ours:8.2f} {products:8.2f} {ours / products:6.2f} {ours / medians[0]:6.2f}"
        )


def add_options(parser):
    add_runs(parser, 20)
    parser.add_argument(
        "--kept",
        type=positive,
        action="append",
        metavar="N",
        help="samples kept; may be repeated (default: " + ", ".join(map(str, KEPT)) + ")",
    )
    for name, default in (("samples", 64), ("dimensions", 4096), ("classes", 196)):
        parser.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help="(default: %(default)s)"
        )
