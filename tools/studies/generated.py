"""What the net and the solver of a cell make Caffe compute, as one digest, and its Python layers.

Comments, layers of other variants, names of files and folders, and what only decides how often
Caffe prints or saves do not change it.
"""

import functools
import hashlib
import json
import re
from dataclasses import dataclass

from google.protobuf import text_format

from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from tools.nets import options, rules, single
from tools.pycaffe import caffe, caffe_pb2
from tools.studies import cells, code_version, settings

NOT_COMPUTED = ("net", "snapshot_prefix", "snapshot", "display", "average_loss")  # by a solver
NETS = 256  # kept in memory: the cells of a row share theirs but for names


@dataclass(frozen=True)
class Generated:
    """digest: hexadecimal, of net and solver. layers: modules of the net's Python layers."""

    digest: str
    layers: tuple[str, ...]


def of_files(place):
    """Generated of the files that a cells.Files names; raises UserError."""
    return _generated(read_text(place.net, "the net"), read_text(place.solver, "the solver"), place)


def today(place):
    """The same of what tools/make_prototxt.py would write today; UserError if it would refuse."""
    texts = single.texts(_parser().parse_args(cells.make_command(place)[1:]))
    return _generated(texts[place.net.name], texts[place.solver.name], place)


def unchanged(made, place, whole=True):
    """Whether today's code makes Caffe compute what it did when `made` was written.

    made: with code, generated and layers, as a records.Record has them. whole: False to compare
    the Python layers alone, where the cell's data set is not at hand.
    """
    if made.code != code_version.of_modules(made.layers):
        return False
    if not whole:
        return True
    try:
        return made.generated == today(place).digest
    except UserError:  # today's code refuses the cell's options
        return False


@functools.cache
def _parser():
    parser = settings.Parser(add_help=False, allow_abbrev=False)
    for add in (options.add_data_options, options.add_net_options, options.add_run_options):
        add(parser)
    return parser


def _generated(net, solver, place):
    solver = _parsed(solver, caffe_pb2.SolverParameter())
    test = solver.test_state[0] if solver.test_state else caffe_pb2.NetState()
    kept = [
        _layers(_without_names(net), phase, tuple(state.stage))
        for phase, state in ((caffe.TRAIN, solver.train_state), (caffe.TEST, test))
    ]
    for field in NOT_COMPUTED:
        solver.ClearField(field)
    text = json.dumps([str(solver), *(text for text, _ in kept)])
    # Paths of the data set, also those inside of a layer's parameters. Its content is in the key.
    text = re.sub(rf"""(?<=["']){re.escape(place.cell.place.folder)}/""", "DATA/", text)
    layers = sorted(set().union(*(modules for _, modules in kept)))
    return Generated(hashlib.sha256(text.encode()).hexdigest(), tuple(layers))


def _without_names(net):
    """The text without comments between layers and without the net's name."""
    return "\n".join(line for line in net.splitlines() if not line.startswith(("#", "name:")))


@functools.lru_cache(NETS)
def _layers(net, phase, stages):
    """(text of the layers that a state keeps, {module of a Python layer among them})."""
    found = rules.select(_parsed(net, caffe_pb2.NetParameter()), phase, stages)
    for layer in found.layer:
        del layer.include[:], layer.exclude[:]
    modules = {layer.python_param.module for layer in found.layer if layer.type == "Python"}
    return str(found), frozenset(modules)


def _parsed(text, message):
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise UserError(f"a generated prototxt can't be read: {error}") from None
