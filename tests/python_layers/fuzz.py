"""Random parameters, features and labels for every layer: refused in one sentence, or computed.

    .venv/bin/python tests/python_layers/fuzz.py --cases 20000 --seed 1

prints the counts; test_fuzz.py runs a short version. A case depends on the seed and on its number
alone, and a failure names both.
"""

import argparse
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import caffe
import numpy as np
from layer_nets import CLASSES, METRIC_LAYERS, metric_net, metric_step
from score_references import hierarchy_text

from python_layers import (
    bgl_loss,
    bilinear_pooling,
    center_loss,
    conditional_softmax_loss,
    glm_loss,
    gtl_loss,
)
from python_layers.contrastive_loss import ContrastiveLossLayer
from python_layers.hxe_loss import HXELossLayer
from python_layers.minmax_loss import MinMaxLossLayer
from python_layers.soft_label_loss import SoftLabelLossLayer
from python_layers.triplet_loss import TripletLossLayer

HIERARCHY = "<hierarchy.tsv>"  # stands for the path of a tree in the folder of the run
TREE = np.array([[0, 0], [1, 0], [2, 1], [3, 1]])  # of CLASSES fine classes and their parents

# layer: (its table of parameters, bottoms of the features, scores or maps, label bottoms)
TABLES = {
    "glm_loss.GLMLossLayer": (glm_loss.PARAMETERS, ["4"], 2),
    "contrastive_loss.ContrastiveLossLayer": (ContrastiveLossLayer.PARAMETERS, ["4"], 1),
    "triplet_loss.TripletLossLayer": (TripletLossLayer.PARAMETERS, ["4"], 1),
    "minmax_loss.MinMaxLossLayer": (MinMaxLossLayer.PARAMETERS, ["4"], 1),
    "gtl_loss.GTLLossLayer": (gtl_loss.PARAMETERS, ["4"], 2),
    "center_loss.CenterLossLayer": (center_loss.PARAMETERS, ["4"], 1),
    "bgl_loss.BGLLossLayer": (bgl_loss.PARAMETERS, ["4", "2"], 2),
    "hxe_loss.HXELossLayer": (HXELossLayer.PARAMETERS, ["4"], 1),
    "soft_label_loss.SoftLabelLossLayer": (SoftLabelLossLayer.PARAMETERS, ["4"], 1),
    "conditional_softmax_loss.ConditionalSoftmaxLossLayer": (
        conditional_softmax_loss.PARAMETERS,
        ["4", "2"],
        1,
    ),
    "bilinear_pooling.BilinearPoolingLayer": (bilinear_pooling.PARAMETERS, ["2 dim: 2 dim: 1"], 0),
}
VALUES = (
    ["true", "false", "null", "0", "1", "2", "5", "0.5", "-1", "-0.0", "1e3", "1e9", "1e10", "1e30"]
    + ["1e308", "1e999", "5e-324", "NaN", "Infinity", "-Infinity", "2147483647", "2147483648"]
    + ["[1, 1]", "[1]", "[]", "{}", "[0.5, 1e9]", '[1, "1"]', "[[1], 1]", "[null, 1]", "[1e30, 1]"]
    + ['"paper"', '"exact"', '"semihard"', '"all"', '"hard"', '"active"', '"kinds"', '"present"']
    + [
        '""',
        '"\\ud800"',
        '"\\u0000"',
        '"é"',
        "9" * 5000,
        "0." + "1" * 5000,
        "[" * 3000 + "]" * 3000,
    ]
)
BYTES = ['"', "{", "}", "[", "]", ",", ":", "\\", "\x00", "\ufeff", "é", "1", "e", "-", " ", "\n"]

FEATURES = [np.nan, np.inf, -np.inf, 1e-45, -1e-40, 1e-20, 1e-12, 1e-7, 0.0, -0.0, 1e5, 1e10, 1e14]
FEATURES += [1e15, 1e16, 1e30, -3.4e38]
LABELS = [-1, 0.5, np.nan, np.inf, 1e30, 2**24, 2**24 + 2, 1, CLASSES, 1e-40, -0.0]


def param_str(rng, table):
    """A random text that is more or less the JSON object that the table asks for."""
    names = [*table, *table, "K", "", "marg\u00efn", "\\ud800"]
    chosen = rng.choice(len(names), size=rng.integers(0, 4), replace=rng.random() < 0.1)
    pairs = []
    for index in chosen:
        default = table[names[index]].default if names[index] in table else None
        default = HIERARCHY if names[index] == "hierarchy" else default
        value = json.dumps(default) if rng.random() < 0.6 else VALUES[rng.integers(len(VALUES))]
        pairs.append(f'"{names[index]}": {value}')
    text = "{" + ", ".join(pairs) + "}"
    for _ in range(rng.choice([0, 0, 0, 0, 1, 3])):
        place, more = rng.integers(len(text) + 1), BYTES[rng.integers(len(BYTES))]
        text = text[:place] + more + text[place + rng.integers(0, 2) :]
    return text


def batch(rng, samples=12, dimensions=4):
    """(features, labels of two levels): a random batch, most often damaged."""
    features = rng.normal(size=(samples, dimensions)).astype(np.float32)
    fine = rng.integers(CLASSES, size=samples)
    labels = [fine.astype(np.float32), (fine // 2).astype(np.float32)]
    for _ in range(rng.integers(0, 3)):
        _damage(rng, features, np.float32(FEATURES[rng.integers(len(FEATURES))]))
    if rng.random() < 0.3:
        level = labels[rng.integers(2)]
        level[rng.integers(samples)] = LABELS[rng.integers(len(LABELS))]
    return features, labels


def _damage(rng, features, value):
    row, kind = rng.integers(len(features)), rng.integers(5)
    if kind == 0:
        features[row, rng.integers(features.shape[1])] = value
    elif kind == 1:
        features[row] = value
    elif kind == 2:
        features[...] = value
    elif kind == 3:
        features[row] = features[0]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            features *= value


def refusal_of(layer, function):
    """(the sentence with which the layer refuses, None), or (None, what the function returns)."""
    try:
        return None, function()
    except ValueError as error:
        sentence = str(error)
        assert re.match(rf"{layer.split('.')[1]}( needs|: )", sentence), sentence
        assert len(sentence) < 700 and "\n" not in sentence, sentence
        sentence.encode()  # no lone surrogates, which could not be printed
        return sentence, None


def fuzz_parameters(seed, cases, folder):
    """Counter of accepted and refused param_strs; every accepted one computes a batch."""
    counts = Counter()
    (folder / "hierarchy.tsv").write_text(hierarchy_text(TREE))
    for case in range(cases):
        layer = list(TABLES)[case % len(TABLES)]
        table, inputs, labels = TABLES[layer]
        rng = np.random.default_rng([seed, case])
        text = param_str(rng, table).replace(HIERARCHY, str(folder / "hierarchy.tsv"))
        try:
            refused, net = refusal_of(layer, lambda: _net(folder, layer, text, inputs, labels))  # noqa: B023
            if not refused:
                _, results = refusal_of(layer, lambda: _pass(net, rng, inputs, labels))  # noqa: B023
                assert not results or all(np.isfinite(values).all() for values in results)
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}: {layer}, {text[:300]!r}") from error
        counts["param_strs refused" if refused else "param_strs accepted"] += 1
    return counts


def _net(folder, layer, text, inputs, labels):
    """Blobs input_0 .., label_1 .., loss, and the optional second top of a layer with labels."""
    module, name = layer.split(".")
    shapes = {f"input_{i}": f"dim: 12 dim: {rest}" for i, rest in enumerate(inputs)}
    shapes |= {f"label_{level}": "dim: 12" for level in range(1, labels + 1)}
    blobs = "".join(
        f'layer {{ name: "{blob}" type: "Input" top: "{blob}" '
        f"input_param {{ shape {{ {shape} }} }} }}\n"
        for blob, shape in shapes.items()
    )
    tops = 'top: "loss"' + (' top: "more" loss_weight: 1 loss_weight: 0' if labels else "")
    (folder / "net.prototxt").write_text(
        f'force_backward: true\n{blobs} layer {{ name: "metric" type: "Python" {tops} '
        + " ".join(f'bottom: "{blob}"' for blob in shapes)
        + f' python_param {{ module: "python_layers.{module}" layer: "{name}" '
        f"param_str: {json.dumps(text)} }} }}"
    )
    return caffe.Net(str(folder / "net.prototxt"), caffe.TRAIN)


def _pass(net, rng, inputs, labels):
    """Forward and backward of a random batch: all that the layer computes."""
    _, of_levels = batch(rng)
    for level in range(1, labels + 1):
        net.blobs[f"label_{level}"].data[...] = of_levels[level - 1]
    for i in range(len(inputs)):
        blob = net.blobs[f"input_{i}"]
        blob.data[...] = batch(rng, 12, blob.count // 12)[0].reshape(blob.data.shape)
    net.forward()
    net.backward()
    names = [name for name in net.blobs if name in ("loss", "more")]
    diffs = [net.blobs[f"input_{i}"].diff.copy() for i in range(len(inputs))]
    return [net.blobs[name].data.copy() for name in names] + diffs


def fuzz_batches(seed, cases, folder):
    """Counter of accepted and refused batches.

    Every layer gets a stream of batches; a second net of the layer gets only those that the first
    one accepted, and must compute the same bits.
    """
    counts, stream = Counter(), 10
    names = list(METRIC_LAYERS)
    for start in range(0, cases, stream):
        name = names[start // stream % len(names)]
        layer = METRIC_LAYERS[name][0]
        net, other = (metric_net(folder, name) for _ in range(2))
        for case in range(start, min(start + stream, cases)):
            features, labels = batch(np.random.default_rng([seed, case]))
            try:
                step = lambda: metric_step(net, features, labels)  # noqa: B023, E731
                refused, results = refusal_of(layer, step)
                if refused:
                    if not np.isfinite(features).all():
                        counts["batches with nan or inf refused"] += 1
                    net.backward()
                else:
                    assert np.isfinite(features).all()
                    for ours, expected in zip(
                        results, metric_step(other, features, labels), strict=True
                    ):
                        assert np.isfinite(ours).all() and np.array_equal(ours, expected)
            except Exception as error:
                raise AssertionError(f"seed {seed}, case {case}: {name}") from error
            counts["batches refused" if refused else "batches accepted"] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="of each kind (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for fuzz in (fuzz_parameters, fuzz_batches):
            for kind, count in fuzz(options.seed, options.cases, Path(folder)).items():
                print(f"{count:8} {kind}")


if __name__ == "__main__":
    main()
