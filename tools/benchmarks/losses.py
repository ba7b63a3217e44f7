"""The metric losses beside the matrix products that any loss of all pairs needs."""

import json

import numpy as np

from python_layers import center, contrastive, glm, glm_loss, minmax, triplet
from tools.nets import tables

from .timing import alternating_medians

SIZES = [(128, 1024), (128, 4096), (256, 4096)]  # samples, dimensions
FINE_CLASSES, SIBLINGS = 64, 4


def losses_of(features, labels):
    """{name: function() -> LossTerms} of every metric loss, with the parameters of the nets."""
    fine, classes = labels[0], FINE_CLASSES
    centres = np.zeros((classes, features.shape[1]), features.dtype)
    of_fine = {"contrastive": contrastive.forward, "triplet": triplet.forward,
               "minmax": minmax.forward}
    return {
        "glm": lambda: glm.forward(features, labels, **glm_loss.settings(
            json.dumps(tables.glm_parameters(len(labels))), len(labels))),
        **{name: lambda name=name, forward=forward: forward(
            features, [fine], **tables.RIVALS[name].parameters(classes))
           for name, forward in of_fine.items()},
        "center": lambda: center.forward(features, [fine], centres)}


def run(options):
    """Metric losses on random rectified features of a three-level tree, beside X X^T and C X.

    Any loss of all pairs needs the first product for its distances and the second for its gradient;
    both are float32, as Caffe's blobs. Ratios are of forward + backward to the two products.
    """
    rng = np.random.default_rng(0)
    print(f"{FINE_CLASSES} classes; milliseconds, medians of {options.runs} runs")
    print(f"{'samples':>8} {'dimensions':>10} {'products':>8}  {'loss':11} {'forward':>8} "
          f"{'backward':>8} {'ratio':>6}")
    for samples, dimensions in SIZES:
        features = np.maximum(rng.normal(size=(samples, dimensions)), 0).astype(np.float32)
        fine = np.arange(samples) % FINE_CLASSES
        labels = [fine, fine // SIBLINGS, fine // SIBLINGS**2]
        coefficients = rng.normal(size=(samples, samples)).astype(np.float32)
        for name, forward in losses_of(features, labels).items():
            terms = forward()
            seconds = alternating_medians([
                forward, lambda: terms.gradient(features),
                lambda: (features @ features.T, coefficients @ features)], options.runs)
            ahead, back, products = (1e3 * value for value in seconds)
            print(f"{samples:8} {dimensions:10} {products:8.2f}  {name:11} {ahead:8.2f} {back:8.2f} "
                  f"{(ahead + back) / products:6.2f}", flush=True)


def add_options(parser):
    parser.add_argument("--runs", type=int, default=50, help="counted runs (default: %(default)s)")
