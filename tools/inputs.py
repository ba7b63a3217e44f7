"""Lists the files that training reads (net, LMDBs, means, weights) and commands to make them."""

import functools
from pathlib import Path

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools.nets import rules, tables
from tools.pycaffe import TEST, TRAIN, caffe_pb2

# Sources of weights that this repository does not train.
WEIGHTS = {
    "squeezenet_v1.1.caffemodel": "tools/convert_squeezenet.py",
    "VGG_ILSVRC_16_layers.caffemodel": "download it from http://www.robots.ox.ac.uk/~vgg/"
    "software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel into weights/",
    "VGG_ILSVRC_19_layers.caffemodel": "download it from http://www.robots.ox.ac.uk/~vgg/"
    "software/very_deep/caffe/VGG_ILSVRC_19_layers.caffemodel into weights/",
    "VGG_ILSVRC_16_two_streams.caffemodel": "tools/two_streams.py",
}
ZOO = "download it from BVLC's model zoo ({name}) into weights/"


@functools.cache  # many solvers share one net
def read_net(path):
    """NetParameter of a prototxt; raises UserError if it can't be read."""
    return prototxt.read(path, caffe_pb2.NetParameter())


def inputs_of(solver_path):
    """Inputs of `caffe train -solver`: (SolverParameter, net's path, [LMDB folder], [mean file]).

    Only layers that the solver's train_state and test_state keep count. Raises UserError.
    """
    solver = prototxt.read(solver_path, caffe_pb2.SolverParameter())
    path = solver.net or solver.train_net
    if not path:
        raise UserError(f'{solver_path} names no net: give it `net: "..."`')
    layers = [layer for layer in read_net(path).layer if layer.type == "Data"]
    sources, means = {}, {}
    states = [(TRAIN, solver.train_state)]
    states += [(TEST, state) for state in solver.test_state or [caffe_pb2.NetState()]]
    for phase, state in states:
        for layer in layers:
            if rules.keeps(layer, phase, set(state.stage)):
                sources[layer.data_param.source] = None
                if layer.transform_param.mean_file:
                    means[layer.transform_param.mean_file] = None
    return solver, path, list(sources), list(means)


def build_command(folder):
    """The command that makes the LMDBs in a folder such as data/cub; tools/nets has a table."""
    return tables.build_commands().get(
        Path(folder).as_posix(),
        (
            f"data_prep/build_lmdb.py DATASET --out {folder} "
            "(data_prep/build_lmdb.py --help lists the data sets)"
        ),
    )


def weights_command(path):
    name = Path(path).name
    return WEIGHTS.get(name) or ZOO.format(name=name.removesuffix(".caffemodel"))


def is_lmdb(path):
    return (Path(path) / "data.mdb").is_file()
