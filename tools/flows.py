#!/usr/bin/env python3
"""Print how much each loss of a net acts: the norm of the gradient that it sends into the feature.

Net, data and training are the solver's own. The gradient of a loss is the one that arrives at the
feature, over the batch, when the other losses are switched off. It includes the loss_weight. The
share is that of the sum of the norms. The training adds these gradients (Algorithm 1 of the paper):
`all` is the norm of the gradient that it uses, `deviation` the difference from the sum, relative;
above 1e-4 the status is 1. A loss that does not depend on the feature, such as GoogLeNet's
auxiliary ones, acts on the layers before it only: --blob names a blob where it arrives.

The measurements do not change the training. Tests and snapshots are left out.
"""

import argparse
from pathlib import Path

from data_prep.common import files, progress, prototxt, text_table
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffe_errors, caffemodel, flow_table, inputs, snapshots, solver_net
from tools.flow_meter import FlowMeter
from tools.nets import diagram, rules
from tools.pycaffe import TRAIN

EXAMPLES = """examples, from the repository's root:
  tools/flows.py --solver prototxt/cub_googlenet_ours_solver.prototxt \\
      --weights weights/bvlc_googlenet.caffemodel
  tools/flows.py --solver prototxt/cub_googlenet_ours_solver.prototxt \\
      --weights weights/bvlc_googlenet.caffemodel --iterations 0 --blob inception_4a/output
"""
TOLERANCE = 1e-4  # of the deviation
ROWS = 10  # of the table, where --every is not given
LONGEST = 10**6  # iterations


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solver", type=Path, required=True, help="solver of the training")
    parser.add_argument(
        "--weights", type=Path, help="caffemodel to start from (default: random weights)"
    )
    parser.add_argument(
        "--iterations",
        type=within(int, 0, LONGEST),
        default=20,
        metavar="N",
        help="iterations to train; 0 measures at the start only (default: %(default)s)",
    )
    parser.add_argument(
        "--every",
        type=within(int, 1, LONGEST),
        metavar="M",
        help=f"iterations between two measurements (default: N / {ROWS})",
    )
    parser.add_argument(
        "--blob", help="blob to measure at (default: the feature that fc8_fine and GLM read)"
    )
    parser.add_argument(
        "--tsv",
        type=Path,
        metavar="FILE",
        help="write the measurements here too, for tools/plot_log.py",
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="number of the GPU (default: the CPU)")
    args = parser.parse_args()
    args.every = args.every or max(1, args.iterations // ROWS)
    return args


def check_data(proto):
    """UserError unless the LMDBs of a training net are there."""
    for layer in proto.layer:
        source = Path(layer.data_param.source)
        if layer.type == "Data" and not inputs.is_lmdb(source):
            raise UserError(
                f"{source} is not there: make the data set, from the repository root, "
                f"with {inputs.build_command(source.parent)}"
            )


def feature_of(solver, net):
    """Name of the feature of a solver's net file; UserError for a net without the paper's head."""
    try:
        return diagram.diagram(net, solver.train_state.stage).feature
    except ValueError as error:
        raise UserError(f"net {solver.net} {error}; name a blob of it with --blob") from None


def check_blob(solver, proto, net, blob):
    """UserError unless a layer of a training net writes the blob and Caffe computes its gradient.

    proto, net: the NetParameter without stages, and the caffe.Net of it.
    """
    before = rules.needed_for(proto, [blob])
    if not before:
        raise UserError(f"net {solver.net} has no blob {blob} in training: correct --blob")
    if not proto.force_backward and not any(
        _is_trained(layer, net.params.get(layer.name, ())) for layer in before
    ):
        raise UserError(
            f"no layer before {blob} is trained, so that Caffe computes no gradient there: name a "
            "later --blob"
        )


def _is_trained(layer, blobs):
    """As Net::Init: a blob without a ParamSpec has lr_mult 1."""
    return len(layer.param) < len(blobs) or any(param.lr_mult for param in layer.param)


def training(solver):
    """Caffe's solver of a SolverParameter, without its tests, display and snapshots.

    Raises UserError where Caffe refuses it or its net.
    """
    from tools.pycaffe import caffe

    for field in ("test_iter", "test_interval", "test_state", "display", "snapshot"):
        solver.ClearField(field)
    with (
        caffe_errors.refusals(f"Caffe refuses the training of {solver.net}"),
        prototxt.as_file(solver) as path,
    ):
        return caffe.get_solver(path)


def copy_weights(net, path):
    """Copy a file's weights into a caffe.Net; returns the names of the layers that it lacks.

    Raises UserError where it can't be read, has other shapes, or no layer of the net.
    """
    files.existing(path, "caffemodel")
    if reason := snapshots.problem(path):
        raise UserError(f"the weights can't be used: {reason}")
    lacks = []
    if not caffemodel.is_hdf5(path):
        needed = {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()}
        lacks = caffemodel.compare(path, needed, "the net")
        if len(lacks) == len(needed):
            raise UserError(f"{path} has weights for no layer of the net: is it another network's?")
    with caffe_errors.refusals(f"{path} doesn't fit the net"):
        net.copy_from(str(path))
    return lacks


def run(solver, meter, iterations, every, found):
    """Train, and append a Measurement to `found` at iteration 0, every, 2 every, ... and the last.

    solver: of `training`. Raises UserError where Caffe or a layer refuses a batch, and where a
    measurement is not finite.
    """

    def on_gradients_ready():
        if solver.iter % every == 0 or solver.iter == iterations:
            found.append(meter.measure(solver.iter))

    solver.add_callback(lambda: None, on_gradients_ready)
    count = iterations + 1  # the last one is measured, too
    for iteration in progress.each(range(count), "flows", "iterations", count):
        with caffe_errors.refusals(f"iteration {iteration}"):
            solver.step(1)
        if not found[-1].is_finite():
            raise UserError(
                f"the training has diverged: at iteration {found.pop().iteration} a loss or its "
                "gradient is not finite"
            )


def table(found, meter):
    """Lines: a row per Measurement, a column per loss that depends on the blob."""
    flows = {name: weight for name, weight in meter.losses.items() if name in meter.reaching}
    titles = [name if weight == 1 else f"{weight:g} x {name}" for name, weight in flows.items()]
    rows = [("iteration", *titles, "all", "deviation")]
    for one in found:
        cells = [f"{flow.norm:.3g} ({flow.share:.0%})" for flow in one.flows if flow.loss in flows]
        rows.append((str(one.iteration), *cells, f"{one.norm:.3g}", f"{one.deviation:.0e}"))
    return text_table.aligned(rows, right=range(len(rows[0])))


def main():
    args = parse()
    parameters = solver_net.read_solver(args.solver)
    if parameters.max_iter and args.iterations > parameters.max_iter:
        raise UserError(
            f"--iterations {args.iterations}: {args.solver} trains for {parameters.max_iter}"
        )
    whole = solver_net.read_net(parameters)
    proto = rules.select(whole, TRAIN, parameters.train_state.stage)
    check_data(proto)
    blob = args.blob or feature_of(parameters, whole)
    if args.gpu is not None:
        solver_net.use_gpu(args.gpu)
    solver = training(parameters)
    check_blob(parameters, proto, solver.net, blob)
    random = copy_weights(solver.net, args.weights) if args.weights else list(solver.net.params)
    meter = FlowMeter(solver.net, blob)
    if not meter.reaching:
        raise UserError(f"no loss of net {parameters.net} depends on {blob}: name another --blob")
    if args.tsv:
        files.make_way(args.tsv)

    found = []
    try:
        run(solver, meter, args.iterations, args.every, found)
    finally:
        if found:
            print(f"norm of each loss's gradient into {blob}, and its share")
            print("\n".join(table(found, meter)))
    if without := [name for name in meter.losses if name not in meter.reaching]:
        print(f"not dependent on {blob}: {', '.join(without)}")
    if args.weights and random:
        print(f"random at the start: {', '.join(random)}")
    if args.tsv:
        files.write_whole(args.tsv, flow_table.text(found))
        print(f"wrote {args.tsv}")
    worst = max(found, key=lambda one: one.deviation)
    if worst.deviation > TOLERANCE:
        raise UserError(
            f"at iteration {worst.iteration} the sum of the gradients deviates from the whole by "
            f"{worst.deviation:.1e}, relative: a layer behind {blob} is not linear in the gradient "
            "or changes in its backward pass"
        )


if __name__ == "__main__":
    command(main)
