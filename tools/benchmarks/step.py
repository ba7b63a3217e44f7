"""Measures the share of each kind of layer in a training step, or a step beside other engines."""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from data_prep.common import prototxt, text_table
from data_prep.common.errors import UserError
from tools import caffe_errors, solver_net
from tools.training_net import training_net

from . import peer_nets, peers
from .timing import positive

SOLVER = "prototxt/cars_alexnet_ours_solver.prototxt"
BATCH, RUNS = 32, 5


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

    With --peers: time the whole step (forward, backward and update) and the forward pass of several
    nets beside other engines: BVLC's Caffe as it is (docker/build_caffe.sh --stock), PyTorch in
    both memory layouts, forward only ONNX Runtime and OpenCV, and ours with one thread. Each runs
    in a process of its own with OMP_NUM_THREADS set; they take turns, and the table has the median
    of the ratios of each turn, with the smallest and the largest. An engine whose losses (of two
    steps without dropout) or scores differ from ours by more than 1e-3 does other work, and is not
    compared. Engines that are not installed are named and skipped. With --out, the same command
    goes on where it stopped, and then repeats the pairs that other processes disturbed.

    examples:
      tools/bench.py step
      tools/bench.py step --peers --out results/peers.json
      tools/bench.py step --peers --net squeezenet --net alexnet --batch 32 --work train
    """
    if options.peers:
        _complete(options)
        return peers.run(options)
    if given := [name for name, value in _of_peers(options).items() if value]:
        raise UserError(f"--{given[0]} is for --peers")
    if options.batch and len(options.batch) > 1:
        raise UserError("several --batch are for --peers")
    _layers(
        options.solver or SOLVER,
        options.batch[0] if options.batch else BATCH,
        options.runs or RUNS,
    )


def _of_peers(options):
    """{option: value} of those that only --peers has."""
    names = ("net", "threads", "work", "peer", "seconds", "ours", "stock", "packages", "out")
    return {name: getattr(options, name) for name in names}


def _complete(options):
    """Put in the defaults of --peers."""
    if options.solver and options.net:
        raise UserError("--solver names one net of your own, --net nets of this repository")
    defaults = {
        "net": list(peer_nets.NETS),
        "threads": peers.THREADS,
        "batch": peers.BATCHES,
        "work": (peers.TRAIN, peers.INFER),
        "peer": list(peers.PEERS),
        "seconds": peers.SECONDS,
        "runs": peers.TURNS,
        "stock": Path.home() / ".local/caffe-stock",
    }
    for name, value in defaults.items():
        if not getattr(options, name):
            setattr(options, name, value)
    options.ours = peers.prefix_of_ours(options.ours)
    options.stock = options.stock.resolve()  # engines run in the repository's root
    if options.packages:
        if not options.packages.is_dir():
            raise UserError(f"--packages {options.packages}: not a folder")
        options.packages = options.packages.resolve()


def _layers(solver, batch, runs):
    """Print the table of one net's layers."""
    from tools.pycaffe import caffe

    proto, tree = training_net(solver_net.read_solver(solver), batch)
    with (
        caffe_errors.refusals(f"Caffe refuses the net of {solver}"),
        prototxt.as_file(proto) as path,
    ):
        net = caffe.Net(path, caffe.TRAIN)
    rng = np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.normal(0, 60, net.blobs["data"].shape)
    labels = tree[rng.integers(len(tree), size=batch)]
    net.blobs["label"].data[...] = labels[:, :, None, None]
    names = list(net._layer_names)
    seconds_of(net, names)  # the first pass reserves the memory
    seconds = np.median([seconds_of(net, names) for _ in range(runs)], axis=0)
    print(f"{solver}, batch {batch}: milliseconds, medians of {runs} runs")
    lines = [("layers", "forward", "backward", "share")]
    for kind, count, ahead, back in rows(names, [layer.type for layer in net.layers], seconds):
        share = (ahead + back) / seconds.sum()
        lines.append(
            (f"{count} x {kind}", f"{1e3 * ahead:.2f}", f"{1e3 * back:.2f}", f"{share:.2%}")
        )
    lines.append(("all", *(f"{1e3 * part:.2f}" for part in seconds.sum(axis=0)), ""))
    print("\n".join(text_table.aligned(lines, right={1, 2, 3})))


def _counts(text):
    """Argument type: whole numbers of at least 1, with commas between several."""
    counts = tuple(map(positive, text.split(",")))
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError("each number may occur once only")
    return counts


def add_options(parser):
    add = parser.add_argument
    add("--solver", help=f"of the net (default: {SOLVER}; with --peers the nets of --net)")
    add(
        "--batch",
        type=_counts,
        metavar="N[,N]",
        help=f"images (default: {BATCH}; with --peers {_listed(peers.BATCHES)})",
    )
    add(
        "--runs",
        type=positive,
        help=f"number of runs (default: {RUNS}), with --peers of turns (default: {peers.TURNS})",
    )
    add("--peers", action="store_true", help="compare a step with other engines; with this option:")
    group = parser.add_argument_group("with --peers")
    add = group.add_argument
    for name, known in (
        ("net", peer_nets.NETS),
        ("peer", peers.PEERS),
        ("work", (peers.TRAIN, peers.INFER)),
    ):
        add(
            f"--{name}",
            action="append",
            choices=list(known),
            help="may be repeated (default: all)",
        )
    add(
        "--threads",
        type=_counts,
        metavar="N[,N]",
        help=f"of each engine (default: {_listed(peers.THREADS)})",
    )
    add(
        "--seconds",
        type=positive,
        help="begin no case that would end later; the first is measured in any case "
        f"(default: {peers.SECONDS})",
    )
    peers.add_ours(group)
    add(
        "--stock",
        type=Path,
        metavar="DIR",
        help="where stock Caffe is installed (default: ~/.local/caffe-stock)",
    )
    add(
        "--packages",
        type=Path,
        metavar="DIR",
        help="where `pip install --target DIR -r docker/requirements-compare.txt` put the other "
        "engines (default: this Python's own packages)",
    )
    add(
        "--out",
        type=Path,
        metavar="JSON",
        help="file of all measurements; cases that it has are not measured again",
    )


def _listed(numbers):
    return ",".join(map(str, numbers))
