"""Measures the share of each kind of layer, including the metric loss, in a training step."""

import time
from collections import defaultdict

import numpy as np

from data_prep.common import prototxt, text_table
from tools import caffe_errors, solver_net
from tools.training_net import labels_of, training_net

from .timing import add_runs, positive

SOLVER = "prototxt/cars_alexnet_ours_solver.prototxt"


def seconds_of(net, names):
    """layers x 2 array: seconds of each layer's forward and backward, in one pass over a net."""
    found = np.empty((len(names), 2))
    for way, order, one in (
        (0, range(len(names)), net._forward),
        (1, reversed(range(len(names))), net._backward),
    ):
        for i in order:
            start = time.perf_counter()
            one(i, i)
            found[i, way] = time.perf_counter() - start
    return found


def rows(names, types, seconds):
    """[(kind, layers, forward, backward)], slowest first; each Python layer is its own kind."""
    kinds = defaultdict(list)
    for name, kind, both in zip(names, types, seconds):
        kinds[f"{kind} {name}" if kind == "Python" else kind].append(both)
    found = [(kind, len(all_of), *np.sum(all_of, axis=0)) for kind, all_of in kinds.items()]
    return sorted(found, key=lambda row: -row[2] - row[3])


def run(options):
    """Time forward and backward of every layer of a solver's training net, on the CPU.

    Weights and images are random, which does not affect the time; labels form a tree. Reading
    images and updating weights, which a real step also includes, are left out, so that the shares
    are upper bounds.
    """
    from tools.pycaffe import caffe

    proto, sizes = training_net(solver_net.read_solver(options.solver), options.batch)
    with (
        caffe_errors.refusals(f"Caffe refuses the net of {options.solver}"),
        prototxt.as_file(proto) as path,
    ):
        net = caffe.Net(path, caffe.TRAIN)
    rng = np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.normal(0, 60, net.blobs["data"].shape)
    labels = labels_of(rng.integers(sizes[0], size=options.batch), sizes)
    net.blobs["label"].data[...] = labels[:, :, None, None]
    names = list(net._layer_names)
    seconds_of(net, names)  # the first pass reserves the memory
    seconds = np.median([seconds_of(net, names) for _ in range(options.runs)], axis=0)
    print(f"{options.solver}, batch {options.batch}: milliseconds, medians of {options.runs} runs")
    lines = [("layers", "forward", "backward", "share")]
    for kind, count, ahead, back in rows(names, [layer.type for layer in net.layers], seconds):
        share = (ahead + back) / seconds.sum()
        lines.append(
            (f"{count} x {kind}", f"{1e3 * ahead:.2f}", f"{1e3 * back:.2f}", f"{share:.2%}")
        )
    lines.append(("all", *(f"{1e3 * part:.2f}" for part in seconds.sum(axis=0)), ""))
    print("\n".join(text_table.aligned(lines, right={1, 2, 3})))


def add_options(parser):
    add_runs(parser, 5)
    parser.add_argument("--solver", default=SOLVER, help="(default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=32, help="images (default: %(default)s)")
