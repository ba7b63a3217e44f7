"""The losses that python_layers/README.md shows how to write: run as printed, in real Caffe."""

import re
import sys
from pathlib import Path

import caffe
import layer_nets
import numpy as np
import pytest
from batches import numeric_gradient, random_batch

from python_layers import glm

README = Path(glm.__file__).with_name("README.md").read_text()
MODULES = re.findall(r"`(\w+)_loss\.py`[^`]*?:\n\n```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The folder of the README's files, from which Caffe imports them."""
    for name, text in MODULES:
        (tmp_path / f"{name}_loss.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"{name}_loss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def make_net(folder, layer, parameters, levels):
    path = folder / "net.prototxt"
    path.write_text(
        layer_nets.prototxt(layer, parameters, levels=levels, package="", diagnostics=True)
    )
    return caffe.Net(str(path), caffe.TRAIN)


def step(net, features, labels):
    net.blobs["features"].data[...] = features
    for level, values in enumerate(labels, 1):
        net.blobs[f"label_{level}"].data[...] = values
    loss = float(net.forward()["loss"][0])
    net.backward()
    return loss, net.blobs["features"].diff.copy()


SOFT = "soft_glm_loss.SoftGLMLossLayer", {"margins": [3, 3], "within_gradient": "exact"}, 2
COMPACT = "compact_loss.CompactLossLayer", {"normalize": True}, 1


def test_both_examples_are_found():
    assert [name for name, _ in MODULES] == ["soft_glm", "compact"]


def test_soft_glm(modules):
    """log(1 + e^v) of the violations v = D_W - D_B + alpha: by hand for two classes, one level."""
    net = make_net(modules, SOFT[0], {"margins": [2], "within_gradient": "exact"}, 1)
    features, (labels,), _ = random_batch(1, 1, 12, fine_classes=2, dimensions=4)
    x = features.astype(np.float64)
    own, other = x[labels == 0], x[labels == 1]
    between = min(((a - b) ** 2).sum() for a in own for b in other)
    violations = [part.var(axis=0).sum() - between + 2 for part in (own, other)]
    loss, _ = step(net, features, [labels])
    assert loss == pytest.approx(np.log1p(np.exp(violations)).mean(), rel=1e-5)


def test_softplus_is_above_the_hinge_and_near_it_for_large_violations(modules):
    from soft_glm_loss import softplus

    violations = np.array([-np.inf, -800, -1, 0, 1, 800])
    value, derivative = softplus(violations)
    assert value == pytest.approx([0, 0, np.log1p(np.exp(-1)), np.log(2), np.log1p(np.e), 800])
    assert derivative == pytest.approx([0, 0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1])
    assert (value >= glm.hinge(violations)[0]).all()


@pytest.mark.parametrize("layer, parameters, levels", [SOFT, COMPACT])
def test_gradients_are_derivatives(modules, layer, parameters, levels):
    features, labels, _ = random_batch(2, levels, 12, fine_classes=4, dimensions=4)
    net = make_net(modules, layer, parameters, levels)
    loss, gradient = step(net, features, labels)
    numeric = numeric_gradient(lambda x: step(net, x, labels)[0], features, 1e-2)
    assert loss > 0
    assert gradient == pytest.approx(numeric, abs=0.01 * float(np.abs(gradient).max()))


@pytest.mark.parametrize("layer, parameters, levels", [SOFT, COMPACT])
def test_memory_comes_with_it(modules, layer, parameters, levels):
    net = make_net(modules, layer, {**parameters, "memory": 12}, levels)
    features, labels, _ = random_batch(3, levels, 24, fine_classes=4, dimensions=4)
    alone = step(net, features[:12], [level[:12] for level in labels])[0]
    step(net, features[12:], [level[12:] for level in labels])
    assert step(net, features[:12], [level[:12] for level in labels])[0] != alone
