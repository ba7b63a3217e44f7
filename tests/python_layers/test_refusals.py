"""Invalid input is refused in one sentence, and no layer keeps any of it."""

import re
from functools import partial

import caffe
import numpy as np
import pytest
from layer_nets import METRIC_LAYERS, make_net, metric_batch, metric_net, metric_step

from python_layers import glm
from python_layers.glm_loss import GLMLossLayer
from python_layers.labels import LARGEST_LABEL
from python_layers.pairwise import LONGEST

pytestmark = pytest.mark.filterwarnings("error")

each_layer = pytest.mark.parametrize("name", METRIC_LAYERS)


def one_feature(value):
    def change(features, labels):
        features[5, 2] = value
        return features, labels

    return change


def all_features(value):
    return lambda features, labels: (np.full_like(features, value), labels)


def one_label(value):
    def change(features, labels):
        labels[0][5] = value
        return features, labels

    return change


REFUSED = {
    "nan": (
        one_feature(np.nan),
        r"features of 1 of (12|24) samples hold nan or inf \(first: sample 5\)",
    ),
    "inf": (one_feature(np.inf), "features of 1 of (12|24) samples hold nan or inf"),
    "-inf": (all_features(-np.inf), "features of 12 of (12|24) samples hold nan or inf"),
    "1e30": (one_feature(1e30), r"features of 1 of (12|24) samples are longer than 1e\+15"),
    "all 1e30": (all_features(1e30), "features of 12 of (12|24) samples are longer than"),
    "largest float32": (one_feature(-3.4e38), "features of 1 of (12|24) samples are longer than"),
    "just too long": (
        one_feature(1.01 * LONGEST),
        "features of 1 of (12|24) samples are longer than",
    ),
    "negative label": (one_label(-1), "label_1 must hold whole numbers of at least 0 .* has -1"),
    "fraction": (one_label(0.5), "label_1 must hold whole numbers .* sample 5 has 0.5"),
    "nan label": (one_label(np.nan), "label_1 must hold whole numbers .* sample 5 has nan"),
    "inf label": (one_label(np.inf), "label_1 must hold whole numbers .* sample 5 has inf"),
    "2^24 + 2": (
        one_label(LARGEST_LABEL + 2),
        "label_1 must hold whole numbers .* at most 16777216",
    ),
    "1e30 label": (one_label(1e30), "label_1 must hold whole numbers"),
}


@each_layer
@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_a_refused_batch_leaves_no_trace(tmp_path, name, change, message):
    """The batches after it give the same bits as in a net that never saw it."""
    net, other = (metric_net(tmp_path, name) for _ in range(2))
    metric_step(net, *metric_batch(0))
    with pytest.raises(ValueError) as refusal:
        metric_step(net, *change(*metric_batch(1)))
    layer = METRIC_LAYERS[name][0].split(".")[1]
    assert re.search(f"^{layer}: .*{message}", str(refusal.value)) and "\n" not in str(
        refusal.value
    )
    net.backward()  # must find nothing to keep
    metric_step(other, *metric_batch(0))
    for seed in (2, 3):
        for actual, expected in zip(
            metric_step(net, *metric_batch(seed)),
            metric_step(other, *metric_batch(seed)),
            strict=True,
        ):
            assert np.array_equal(actual, expected) and np.isfinite(actual).all()


SCALES = [1e-45, 1e-42, 1e-40, 1e-38, 1e-30, 1e-20, 1e-13, 1e-12, 1e-11, 1e-6, 1e6, 1e12, 1e14]


@each_layer
@pytest.mark.parametrize("which", ["all", "one", "class"])
def test_finite_results_of_finite_features(tmp_path, name, which):
    """Subnormal features, long ones, and both in one batch."""
    net = metric_net(tmp_path, name)
    for scale in SCALES:
        for seed in range(3):
            features, labels = metric_batch(seed)
            rows = {"all": slice(None), "one": [3], "class": labels[0] == labels[0][0]}[which]
            features[rows] = (features[rows].astype(np.float64) * scale).astype(np.float32)
            for values in metric_step(net, features, labels):
                assert np.isfinite(values).all(), scale


@pytest.mark.parametrize("weight", [1e30, 3e38])
@each_layer
def test_a_gradient_beyond_float32_is_refused(tmp_path, name, weight):
    """Otherwise the gradient is finite, even with a large loss_weight."""
    net = metric_net(tmp_path, name, loss_weight=weight)
    features, labels = metric_batch(0)
    for scale in (1, 1e14):
        try:
            assert np.isfinite(metric_step(net, scale * features, labels)[2]).all()
        except ValueError as refusal:
            assert "gradient with respect to the features" in str(refusal)
            assert "lower loss_weight" in str(refusal)


def squared(violation):
    """([v]_+^2, its derivative), elementwise."""
    positive = np.maximum(violation, 0)
    return positive**2, 2 * positive


class SquaredGLMLossLayer(GLMLossLayer):
    forward_pass = staticmethod(partial(glm.forward, penalty=squared))


def test_a_loss_beyond_float32_is_refused(tmp_path):
    """With raw features of 1e14 a squared violation is some 1e56; the memory keeps none of them."""
    parameters = {"margins": [3, 3], "memory": 20}
    nets = []
    for name in ("refusing", "fresh"):
        (tmp_path / name).mkdir()
        layer = f"{__name__}.SquaredGLMLossLayer"
        options = dict(levels=2, package="", diagnostics=True)
        nets.append(make_net(tmp_path / name, layer, parameters, **options))
    features, labels = metric_batch(0)
    refusal = r"^SquaredGLMLossLayer: the loss is \d\S*e\+5\d, which exceeds float32: .* base_lr"
    with pytest.raises(ValueError, match=refusal):
        metric_step(nets[0], 1e14 * features, labels)
    for seed in (1, 2):
        steps = [metric_step(net, *metric_batch(seed)) for net in nets]
        for actual, expected in zip(*steps, strict=True):
            assert np.array_equal(actual, expected) and np.isfinite(actual).all()


def test_centers_that_a_snapshot_brings(tmp_path):
    """The fault is the centers', and the sentence doesn't blame the features."""
    for value in (np.nan, 1e30):
        net = metric_net(tmp_path, "center")
        net.params["metric"][0].data[1] = value
        with pytest.raises(ValueError, match="^CenterLossLayer: the center of class 1 has length"):
            metric_step(net, *metric_batch(0))


def test_more_centers_than_a_blob_holds(tmp_path):
    """Caffe itself would abort."""
    with pytest.raises(ValueError, match="CenterLossLayer: 16000000 centers of 4096 dimensions"):
        make_net(
            tmp_path,
            "center_loss.CenterLossLayer",
            {"num_classes": 16_000_000},
            features="dim: 4096",
        )


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_labels_that_contradict_each_other(tmp_path, phase):
    net = metric_net(tmp_path, "glm", phase=phase)
    features, labels = metric_batch(0)
    labels[1][:] = np.arange(12)
    with pytest.raises(ValueError, match="^GLMLossLayer: class . of label_1 has two parents"):
        metric_step(net, features, labels)
