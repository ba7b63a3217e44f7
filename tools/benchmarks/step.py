"""What part of a training step each kind of layer takes, the metric loss among them."""

import time
from collections import defaultdict

import numpy as np

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools import solver_net
from tools.nets import head, rules

from .timing import add_runs, positive

SOLVER = "prototxt/cars_alexnet_ours_solver.prototxt"


def training_net(solver, batch):
    """(NetParameter, [classes per level]) of a solver's training state, with Input layers for data.

    The inputs are `data`, batch x 3 x crop x crop, and `label`, batch x levels x 1 x 1. A level
    without a classifier in this state counts a third of the classes of the one below. Raises
    UserError for a net without these two Data layers or without a classifier.
    """
    from tools.pycaffe import caffe

    net = rules.select(solver_net.read_net(solver), caffe.TRAIN, solver.train_state.stage)
    data = {layer.top[0]: layer for layer in net.layer if layer.type == "Data"}
    levels = [len(layer.top) for layer in net.layer if layer.type == "Slice"]
    if set(data) != {"data", "label"} or not data["data"].transform_param.crop_size or not levels:
        raise UserError(
            f"net {solver.net} doesn't train on images of one crop_size and their "
            "label per level, from Data layers with the tops data and label"
        )
    side = data["data"].transform_param.crop_size
    for top, shape in (("data", (3, side, side)), ("label", (levels[0], 1, 1))):
        data[top].Clear()
        data[top].name, data[top].type = top, "Input"
        data[top].top.append(top)
        data[top].input_param.shape.add().dim.extend((batch, *shape))
    for layer in net.layer:
        del layer.include[:]  # the stages have been applied
    classes = {layer.name: layer.inner_product_param.num_output for layer in net.layer}
    if head.scores(1) not in classes:
        raise UserError(f"net {solver.net} has no classifier {head.scores(1)}")
    sizes = []
    for level in range(1, levels[0] + 1):
        sizes.append(classes.get(head.scores(level)) or max(1, sizes[-1] // 3))
    return net, sizes


def labels_of(fine, sizes):
    """n x levels: n fine classes, and theirs on the other levels of a tree in which neighbours have
    one parent; sizes: classes per level."""
    labels = [fine]
    for below, size in zip(sizes, sizes[1:]):
        labels.append(labels[-1] * size // below)
    return np.stack(labels, axis=1)


def seconds_of(net, names):
    """Array layers x 2: forward and backward of one pass over a net, a layer at a time."""
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
    """[(kind, layers, forward, backward)], the slowest first; Python layers are each a kind."""
    kinds = defaultdict(list)
    for name, kind, both in zip(names, types, seconds):
        kinds[f"{kind} {name}" if kind == "Python" else kind].append(both)
    found = [(kind, len(all_of), *np.sum(all_of, axis=0)) for kind, all_of in kinds.items()]
    return sorted(found, key=lambda row: -row[2] - row[3])


def run(options):
    """Forward and backward of every layer of a solver's training net, and their share of a step.

    Weights and images are random, which costs the same; labels are of a tree. Reading the images
    and the solver's own update of the weights, which a real step has too, are left out: the shares
    are upper bounds. On the CPU.
    """
    from tools.pycaffe import caffe

    proto, sizes = training_net(solver_net.read_solver(options.solver), options.batch)
    with prototxt.as_file(proto) as path:
        net = caffe.Net(path, caffe.TRAIN)
    rng = np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.normal(0, 60, net.blobs["data"].shape)
    labels = labels_of(rng.integers(sizes[0], size=options.batch), sizes)
    net.blobs["label"].data[...] = labels[:, :, None, None]
    names = list(net._layer_names)
    seconds_of(net, names)  # the first pass reserves the memory
    seconds = np.median([seconds_of(net, names) for _ in range(options.runs)], axis=0)
    print(f"{options.solver}, batch {options.batch}: milliseconds, medians of {options.runs} runs")
    print(f"{'layers':32} {'forward':>9} {'backward':>9} {'share':>7}")
    for kind, count, ahead, back in rows(names, [layer.type for layer in net.layers], seconds):
        print(
            f"{f'{count} x {kind}':32} {1e3 * ahead:9.2f} {1e3 * back:9.2f} "
            f"{(ahead + back) / seconds.sum():7.2%}"
        )
    print(f"{'all':32} {1e3 * seconds[:, 0].sum():9.2f} {1e3 * seconds[:, 1].sum():9.2f}")


def add_options(parser):
    add_runs(parser, 5)
    parser.add_argument("--solver", default=SOLVER, help="(default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=32, help="images (default: %(default)s)")
