"""Makes a solver's training net with inputs that a program fills, instead of LMDBs."""

import json

import numpy as np

from data_prep.common.errors import UserError
from python_layers import label_tree
from tools import solver_net
from tools.nets import head, rules


def training_net(solver, batch):
    """(NetParameter, tree) of a solver's training state, with Input layers for data.

    The inputs are `data`, batch x 3 x crop x crop, and `label`, batch x levels x 1 x 1. `tree`,
    C x levels int64, has the classes of each fine class at all levels: rows of it are labels. It is
    the hierarchy.tsv that a loss of the net reads, or even_tree; there a level without a classifier
    in this state counts a third of the classes of the one below. Raises UserError for a net without
    these two Data layers or without a classifier, and for an unreadable hierarchy.tsv.
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
    path = _hierarchy(net)
    return net, even_tree(sizes) if path is None else _read(path)[:, : levels[0]]


def even_tree(sizes):
    """Tree, C x levels, in which neighboring classes share a parent.

    sizes: classes per level, fine to coarse.
    """
    levels = [np.arange(sizes[0])]
    for below, size in zip(sizes, sizes[1:]):
        levels.append(levels[-1] * size // below)
    return np.stack(levels, axis=1)


def _hierarchy(net):
    """Path of the hierarchy.tsv that losses of the net read; None without.

    Other Python layers than this project's may have any param_str; where one of its own has an
    invalid one, the layer says so.
    """
    for layer in net.layer:
        if not layer.python_param.module.startswith("python_layers."):
            continue
        try:
            given = json.loads(layer.python_param.param_str or "{}")
        except ValueError:
            continue
        if isinstance(given, dict) and isinstance(given.get("hierarchy"), str):
            return given["hierarchy"]
    return None


def _read(path):
    try:
        return label_tree.read(path).ancestors
    except ValueError as error:
        raise UserError(str(error)) from None
