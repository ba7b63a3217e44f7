"""Inference with the layers of any Caffe: stands in for the Python layers of a deploy net.

The model of bipartite-graph labels (of a tree) and the conditional softmax give the classes'
probabilities by a Python layer, which reads the label tree (python_layers/score_loss.py). The same
probabilities follow from stock layers with constant matrices of 0 and 1, which belong to the
weights of the net:

    bgl                  p = softmax(f + sum_j N_j f^j), N_j i c = 1 if c is i's ancestor
    conditional_softmax  p(c | parent): a softmax of each row of a table parents x children, which a
                         matrix fills with scores and EMPTY; p = product over the levels
    both                 p^j = N_j^T p, the probabilities of a coarse level
"""

import json
from dataclasses import dataclass

import numpy as np

from python_layers import label_tree
from tools.pycaffe import caffe_pb2

from . import head, tables

JOINT = "joint_probabilities"  # of the fine classes
EMPTY = -1e30  # score of a place of the table without a class; its probability is 0


@dataclass(frozen=True)
class Stock:
    """A net, and the weights of those of its layers that a trained file does not have.

    net      caffe_pb2.NetParameter without the Python layers
    weights  {layer: [float32 arrays]}
    """

    net: object
    weights: dict


def replaced(net):
    """The Stock of a deploy net (deploy.deploy), whose outputs keep their names.

    Python layers of other kinds stay. Raises ValueError where a label tree can't be read, or where
    a model is not of a tree alone.
    """
    names = {f"{name}_marginals": name for name, row in tables.LOSSES.items() if row.marginals}
    found = Stock(caffe_pb2.NetParameter(name=net.name, input=net.input), {})
    bottoms = None  # the scores of a replaced layer
    for layer in net.layer:
        if layer.name in names and layer.type == "Python":
            bottoms = list(layer.bottom)
            given = json.loads(layer.python_param.param_str)
            if given.get("attributes"):
                raise ValueError(
                    f"{layer.name} has a graph of attributes, which stock layers can't compute"
                )
            tree = label_tree.read(given["hierarchy"])
            if given.get("levels"):
                tree = tree.only(given["levels"])
            tree = label_tree.LabelTree(
                tree.path, tree.levels[: len(bottoms)], tree.ancestors[:, : len(bottoms)]
            )
            _MODELS[names[layer.name]](found, bottoms, tree)
            _add_marginals(found, tree)
        elif not (bottoms and layer.type == "Softmax" and layer.bottom[0] in bottoms):
            found.net.layer.add().CopyFrom(layer)
    return found


def _add_matrix(found, name, bottom, matrix, bias=None):
    """A layer that multiplies by a constant matrix, outputs x inputs."""
    arrays = [np.asarray(matrix, np.float32)] + ([] if bias is None else [np.float32(bias)])
    found.net.layer.add(
        name=name,
        type="InnerProduct",
        bottom=[bottom],
        top=[name],
        inner_product_param=dict(num_output=len(matrix), bias_term=bias is not None),
    )
    found.weights[name] = arrays


def _add(found, kind, name, bottoms, **fields):
    found.net.layer.add(name=name, type=kind, bottom=bottoms, top=[name], **fields)


def _probabilities(level):
    return f"prob_{head.tag(level)}"


def _add_bgl(found, bottoms, tree):
    _add(found, "Concat", "all_scores", bottoms)
    ancestors = [tree.graph(level) for level in range(len(bottoms))]  # C x C_l each
    _add_matrix(found, "joint", "all_scores", np.concatenate(ancestors, axis=1))
    _add(found, "Softmax", JOINT, ["joint"])


def _add_conditional(found, bottoms, tree):
    factors = []
    for level, (bottom, children) in enumerate(zip(bottoms, tree.children()), 1):
        parents, most = children.shape
        place = np.flatnonzero(children.ravel() >= 0)  # of each class in the table
        classes = children.ravel()[place]
        table = np.zeros((parents * most, len(classes)))
        table[place, classes] = 1
        empty = np.where(children.ravel() >= 0, 0, EMPTY)
        named = {kind: f"{kind}_{head.tag(level)}" for kind in ("table", "rows", "given", "path")}
        _add_matrix(found, named["table"], bottom, table, empty)
        shape = dict(shape=dict(dim=[0, parents, most]))
        _add(found, "Reshape", named["rows"], [named["table"]], reshape_param=shape)
        softmax = dict(softmax_param=dict(axis=2))
        _add(found, "Softmax", named["given"], [named["rows"]], **softmax)
        place_of = np.empty(len(classes), np.int64)
        place_of[classes] = place
        path = np.zeros((len(tree.ancestors), parents * most))  # of each fine class
        path[np.arange(len(path)), place_of[tree.ancestors[:, level - 1]]] = 1
        _add_matrix(found, named["path"], named["given"], path)
        factors.append(named["path"])
    if len(factors) == 1:
        _add(found, "Power", JOINT, factors)  # a copy
    else:
        product = dict(eltwise_param=dict(operation=caffe_pb2.EltwiseParameter.PROD))
        _add(found, "Eltwise", JOINT, factors, **product)


_MODELS = {"bgl": _add_bgl, "conditional_softmax": _add_conditional}


def _add_marginals(found, tree):
    _add(found, "Power", _probabilities(1), [JOINT])  # a copy, which no layer reads
    for level in range(1, len(tree.levels)):
        matrix = tree.graph(level).T
        _add_matrix(found, _probabilities(level + 1), JOINT, matrix)
