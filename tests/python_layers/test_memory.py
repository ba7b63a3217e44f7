"""The cross-batch memory: its ring, the losses over a batch and its samples, the layers with it."""

import tracemalloc
from collections import deque

import caffe
import layer_nets
import metric_references
import numpy as np
import pytest
from batches import numeric_gradient, random_batch
from glm_reference import glm as glm_reference, random_tree
from minmax_reference import minmax as minmax_reference

from python_layers import contrastive, glm, minmax, triplet
from python_layers.memory import SampleMemory

pytestmark = pytest.mark.filterwarnings("error")


def stream(seed, sizes, levels=2, fine_classes=8, dimensions=5):
    """Batches (features, labels) of one tree, of these sizes."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, levels, fine_classes)
    for samples in sizes:
        labels = tree[rng.integers(fine_classes, size=samples)].T.astype(np.float32)
        yield rng.normal(size=(samples, dimensions)).astype(np.float32), list(labels)


def joined(*parts):
    """One batch of several (features, labels)."""
    features, labels = zip(*parts)
    return np.concatenate(features), [np.concatenate(level) for level in zip(*labels)]


def rows(features, labels, gram=None):
    """Each sample's numbers as one tuple."""
    if gram is not None:
        x = features.astype(np.float64)
        assert gram == pytest.approx(x @ x.T, rel=1e-12)
    return [tuple(row) for row in np.column_stack([features, *labels])]


@pytest.mark.parametrize("capacity", [1, 7, 20, 1000])
def test_ring_keeps_the_newest(capacity):
    """Batches of all sizes, some larger than it: the batch comes first, then the newest others."""
    memory, newest = SampleMemory(capacity), deque(maxlen=capacity)
    for features, labels in stream(capacity, [4, 3, 9, 4, 1, 30, 2, 8, 8, 8]):
        everything = rows(*memory.join(features, labels))
        assert everything[: len(features)] == rows(features, labels)
        assert sorted(everything[len(features) :]) == sorted(newest)
        memory.keep()
        newest.extend(rows(features, labels))


def test_a_batch_that_is_not_kept_leaves_nothing():
    memory = SampleMemory(10)
    first, second = stream(0, [4, 6])
    memory.join(*first)
    assert rows(*memory.join(*second)) == rows(*second)


@pytest.mark.parametrize("other", [dict(dimensions=6), dict(levels=3)])
def test_what_cant_be_compared_is_forgotten(other):
    memory = SampleMemory(10)
    memory.join(*next(stream(0, [4])))
    memory.keep()
    batch = next(stream(1, [3], **other))
    assert rows(*memory.join(*batch)) == rows(*batch)


def test_memory_is_bounded(monkeypatch):
    """10 batches of 256 KB, 1 MB kept: the ring, one batch, and the copy when the batch grows."""
    monkeypatch.setattr("python_layers.pairwise.SCRATCH", 1 << 10)
    memory = SampleMemory(64)
    tracemalloc.start()
    for samples in [16, 8] * 5:
        memory.join(np.ones((samples, 4096), np.float32), [np.zeros(samples)])
        memory.keep()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.1 * (64 + 16) * 4096 * 4 and peak < kept + 1.2 * 16 * 4096 * 4


OPTIONS = [
    dict(k=k, within_gradient=mode, normalize=normalize)
    for k, mode, normalize in [
        (1, "paper", False),
        (3, "exact", False),
        (1, "exact", True),
        (2, "paper", True),
    ]
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_glm_of_the_first_samples_classes_agrees_with_the_reference(levels, options):
    for seed in range(3):
        features, labels, margins = random_batch(seed, levels)
        terms = glm.forward(features, labels, margins, anchors=5, **options)
        loss, gradient, shares = glm_reference(features, labels, margins, anchors=5, **options)
        assert terms.loss == pytest.approx(loss, rel=1e-4) and loss > 0
        error = terms.gradient(features, own=slice(5)) - gradient[:5]
        assert np.abs(error).max() <= 1e-4 * np.abs(gradient).max()
        named = dict(zip(glm.diagnostic_names(levels), terms.diagnostics(), strict=True))
        for kind, values in shares.items():
            assert [named[f"{kind}_{j}"] for j in range(1, levels + 1)] == pytest.approx(values)


@pytest.mark.parametrize("levels", [1, 3])
def test_all_classes_as_anchors_change_nothing(levels):
    features, labels, margins = random_batch(1, levels)
    plain, all_of = (
        glm.forward(features, labels, margins, anchors=anchors) for anchors in (None, len(features))
    )
    assert plain.loss == pytest.approx(all_of.loss, rel=1e-14)
    assert plain.coefficients == pytest.approx(all_of.coefficients, rel=1e-14)
    assert plain.diagnostics() == pytest.approx(all_of.diagnostics(), rel=1e-13)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_is_the_derivative_while_the_memory_stays(normalize):
    options = dict(k=2, within_gradient="exact", normalize=normalize, anchors=4)
    features, labels, _ = random_batch(2, 2, samples=12, dimensions=4)
    own, kept = features[:4].astype(np.float64), features[4:].astype(np.float64)

    def terms(x):
        return glm.forward(np.concatenate([x, kept]), labels, [3, 3], **options)

    gradient = terms(own).gradient(np.concatenate([own, kept]), own=slice(4))
    numeric = numeric_gradient(lambda x: terms(x).loss, own, 1e-6)
    assert np.abs(gradient).max() > 0
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


def make_net(tmp_path, samples=6, phase=caffe.TRAIN, **parameters):
    return layer_nets.make_net(
        tmp_path,
        "glm_loss.GLMLossLayer",
        {"margins": [2, 2], **parameters},
        phase,
        samples=samples,
        features="dim: 5",
        levels=2,
    )


def step(net, features, labels, backward=True):
    """Forward and backward of one batch of any size: (loss, gradient n x d)."""
    for name, values in zip(("features", "label_1", "label_2"), (features, *labels)):
        if name in net.blobs:
            net.blobs[name].reshape(*values.shape)
            net.blobs[name].data[...] = values
    loss = float(net.forward()["loss"][0])
    if backward:
        net.backward()
    return loss, net.blobs["features"].diff.copy()


def reference_of(name):
    """(layer, parameters, reference(features, labels, anchors) -> loss, gradient)."""
    layer, parameters, reference = {
        "glm": ("glm_loss.GLMLossLayer", {"margins": [2, 2]}, glm_of_fields),
        "contrastive": (
            "contrastive_loss.ContrastiveLossLayer",
            {"margin": 3},
            metric_references.contrastive,
        ),
        "contrastive-kinds": (
            "contrastive_loss.ContrastiveLossLayer",
            {"margin": 1.2, "normalize": True, "average": "kinds"},
            metric_references.contrastive,
        ),
        **{
            f"triplet-{mining}": (
                "triplet_loss.TripletLossLayer",
                {"mining": mining, "normalize": mining == "semihard"},
                metric_references.triplet,
            )
            for mining in triplet.MINING
        },
        "minmax": (
            "minmax_loss.MinMaxLossLayer",
            {"k1": 2, "k2": 4, "normalize": False},
            lambda *batch, **options: minmax_reference(*batch, **options)[:2],
        ),
        "minmax-sphere": (
            "minmax_loss.MinMaxLossLayer",
            {"k1": 1, "k2": 1, "normalize": True},
            lambda *batch, **options: minmax_reference(*batch, **options)[:2],
        ),
    }[name.removesuffix("-normalize")]
    if name.endswith("-normalize"):
        parameters = {**parameters, "normalize": True}
    levels = 2 if layer.startswith("glm") else 1

    def of_batch(features, labels, anchors):
        labels = labels if levels == 2 else labels[0]
        return reference(features, labels, anchors=anchors, **parameters)

    return layer, parameters, levels, of_batch


def glm_of_fields(features, labels, margins, normalize=False, anchors=None):
    return glm_reference(
        features, labels, margins, within_gradient="paper", normalize=normalize, anchors=anchors
    )[:2]


NAMES = ["glm", "glm-normalize", "contrastive", "contrastive-kinds", "minmax", "minmax-sphere"]
NAMES += [f"triplet-{mining}" for mining in triplet.MINING]


@pytest.mark.parametrize("name", NAMES)
def test_layer_agrees_with_the_reference_over_the_kept_samples(tmp_path, name):
    """A batch smaller and one larger than those before; forward passes alone leave nothing."""
    layer, parameters, levels, reference = reference_of(name)
    net = layer_nets.make_net(
        tmp_path,
        layer,
        {**parameters, "memory": 9},
        samples=6,
        features="dim: 5",
        levels=levels,
        loss_weight=2,
    )
    kept = None
    for features, labels in stream(3, [6, 6, 4, 8, 6], fine_classes=4):
        batch = (features, labels)
        all_samples = batch if kept is None else joined(batch, kept)
        expected, gradient = reference(*all_samples, len(features))
        step(net, features, labels, backward=False)
        loss, actual = step(net, features, labels)
        assert loss == pytest.approx(expected, rel=1e-4) and loss
        own = 2 * gradient[: len(features)]
        assert np.abs(actual - own).max() <= 1e-4 * np.abs(own).max()
        kept = batch if kept is None else joined(kept, batch)
        kept = kept[0][-9:], [level[-9:] for level in kept[1]]


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y, **own: contrastive.forward(x, y, margin=3, **own),
        lambda x, y, **own: contrastive.forward(x, y, 1.2, normalize=True, **own),
        *(
            lambda x, y, mining=mining, **own: triplet.forward(x, y, 0.3, mining, **own)
            for mining in triplet.MINING
        ),
        lambda x, y, **own: minmax.forward(x, y, 2, 3, **own),
        lambda x, y, **own: minmax.forward(x, y, 2, 3, normalize=False, **own),
    ],
)
def test_gradient_is_the_derivative_of_the_anchors(loss):
    features, labels, _ = random_batch(6, 1, samples=14, fine_classes=4, dimensions=4)
    own, kept = features[:5].astype(np.float64), features[5:].astype(np.float64)

    def terms(x):
        return loss(np.concatenate([x, kept]), labels, anchors=5)

    gradient = terms(own).gradient(np.concatenate([own, kept]))
    assert gradient.shape == own.shape and np.abs(gradient).max() > 0
    numeric = numeric_gradient(lambda x: terms(x).loss, own, 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


def test_kept_samples_are_not_multiplied_again(tmp_path, monkeypatch):
    """The loss takes the memory's products; only those of the batch are new."""
    net = make_net(tmp_path, memory=9)
    monkeypatch.delattr("python_layers.pairwise.products")
    for batch in stream(8, [6, 6]):
        assert step(net, *batch)[0] > 0


@pytest.mark.parametrize(
    "phase, parameters",
    [(caffe.TRAIN, {}), (caffe.TRAIN, {"memory": 0}), (caffe.TEST, {"memory": 9})],
)
def test_without_memory_every_batch_stands_alone(tmp_path, phase, parameters):
    net = make_net(tmp_path, phase=phase, **parameters)
    batches = list(stream(4, [6, 6, 6]))
    first = [step(net, *batch) for batch in batches]
    for (loss, gradient), (again, same), batch in zip(
        first, [step(net, *batch) for batch in batches], batches
    ):
        assert loss == again and np.array_equal(gradient, same)
        assert loss == pytest.approx(glm_reference(*batch, [2, 2])[0], rel=1e-4)


def test_same_batches_give_the_same_bits(tmp_path):
    batches = list(stream(5, [6, 6, 3, 6]))
    runs = [
        [step(net, *batch) for batch in batches]
        for net in (make_net(tmp_path, memory=10) for _ in range(2))
    ]
    for (loss, gradient), (again, same) in zip(*runs):
        assert loss == again and np.array_equal(gradient, same)


def test_neither_an_empty_batch_nor_a_refused_one_nor_a_second_backward_pass_is_kept(tmp_path):
    net, other = (make_net(tmp_path, memory=20) for _ in range(2))
    first, second, third = stream(6, [6, 6, 6])
    expected = [step(net, *batch) for batch in (first, second)]
    assert step(other, *first)[0] == expected[0][0]
    other.backward()
    step(other, np.empty((0, 5), np.float32), [np.empty(0)] * 2)
    with pytest.raises(ValueError, match="hold nan or inf"):
        step(other, third[0] * np.nan, third[1])
    loss, gradient = step(other, *second)
    assert loss == expected[1][0] and np.array_equal(gradient, expected[1][1])


def test_memory_is_no_parameter_of_the_net(tmp_path):
    """So a snapshot doesn't hold it, and weights with and without fit each other."""
    net = make_net(tmp_path, memory=20)
    step(net, *next(stream(7, [6])))
    assert not net.params


@pytest.mark.parametrize("wrong", [-1, 1.5, "8", True, 1000000])
def test_wrong_capacity_stops_the_net(tmp_path, wrong):
    with pytest.raises(ValueError, match='GLMLossLayer: .* "memory" must be a whole number from 0'):
        make_net(tmp_path, memory=wrong)
