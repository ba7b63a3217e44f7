#!/usr/bin/env python3
"""Benchmarks: how long the project's own code takes beside a yardstick measured in the same run."""

import sys
from pathlib import Path
if __package__ in (None, ""):  # run as a file: import the repository's packages, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import command

import argparse
import statistics
import time

import numpy as np

from python_layers import glm

EXAMPLES = """example, on an idle machine:
  tools/bench.py losses            GLM forward + backward beside the two matrix products it can't do without
"""

SIZES = [(128, 1024), (128, 4096), (256, 4096)]  # samples, dimensions
FINE_CLASSES, SIBLINGS = 64, 4


def alternating_medians(functions, runs):
    """Median seconds of each function; called in turn, so that a drift of the machine hits all alike."""
    seconds = [[] for _ in functions]
    for function in functions:
        function()  # the first call warms caches and thread pools
    for _ in range(runs):
        for function, times in zip(functions, seconds):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def bench_losses(options):
    """GLM on random rectified features of a three-level tree, beside X X^T and C X in float32.

    Any loss of all pairs needs the first product for its distances and the second for its gradient.
    """
    rng = np.random.default_rng(0)
    print(f"GLM, {FINE_CLASSES} classes, medians of {options.runs} runs, milliseconds")
    print(f"{'samples':>8} {'dimensions':>10} {'forward':>8} {'backward':>8} {'products':>8} {'ratio':>6}")
    for samples, dimensions in SIZES:
        features = np.maximum(rng.normal(size=(samples, dimensions)), 0).astype(np.float32)
        fine = np.arange(samples) % FINE_CLASSES
        labels = [fine, fine // SIBLINGS, fine // SIBLINGS**2]
        settings = {"margins": [1, 1, 1], "k": 1, "normalize": True}
        terms = glm.forward(features, labels, **settings)
        coefficients = terms.coefficients.astype(np.float32)
        forward, backward, products = alternating_medians([
            lambda: glm.forward(features, labels, **settings),
            lambda: terms.gradient(features),
            lambda: (features @ features.T, coefficients @ features)], options.runs)
        print(f"{samples:8} {dimensions:10} {forward * 1e3:8.2f} {backward * 1e3:8.2f} "
              f"{products * 1e3:8.2f} {(forward + backward) / products:6.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    losses = commands.add_parser("losses", help="the metric losses beside their matrix products",
                                 description=bench_losses.__doc__)
    losses.add_argument("--runs", type=int, default=50, help="counted runs (default: %(default)s)")
    losses.set_defaults(run=bench_losses)
    options = parser.parse_args()
    if getattr(options, "runs", 1) < 1:
        parser.error("--runs must be at least 1")
    options.run(options)


if __name__ == "__main__":
    command(main)
