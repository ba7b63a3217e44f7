"""The maths on arrays of a device, behind a wall that no value comes through: fake_cupy.py."""

import contextlib
import inspect

import numpy as np
import pytest
from batches import random_batch
from fake_cupy import FUNCTIONS, METHODS, UFUNCS, VIEWS, Waited, make_cupy

from python_layers import bilinear, center, contrastive, glm, minmax, triplet
from python_layers.backend import array_module
from python_layers.memory import SampleMemory

pytestmark = pytest.mark.filterwarnings("error")

CLASSES, DIMENSIONS = 9, 7


def glm_of(levels, **options):
    return lambda x, y: glm.forward(x, y[:levels], [2.0] * levels, **options)


def of_fine(forward, **options):
    return lambda x, y: forward(x, y[:1], **options)


def with_centers(x, y):
    centers = array_module(x).ones((CLASSES, DIMENSIONS), np.float32)
    return center.forward(x, y[:1], centers)


LOSSES = {
    "glm": glm_of(3),
    "glm-one-level": glm_of(1, k=2),
    "glm-exact": glm_of(2, k=3, within_gradient="exact", normalize=True),
    "glm-all-pairs": glm_of(4, k=1000, classes=50),
    "glm-anchors": glm_of(3, anchors=5, normalize=True),
    "contrastive": of_fine(contrastive.forward, margin=3),
    "contrastive-kinds": of_fine(contrastive.forward, normalize=True, average="kinds"),
    **{f"triplet-{mining}": of_fine(triplet.forward, mining=mining) for mining in triplet.MINING},
    "triplet-raw": of_fine(triplet.forward, normalize=False, margin=3, average="mined"),
    "minmax": of_fine(minmax.forward, k1=2, k2=3),
    "minmax-raw": of_fine(minmax.forward, k1=5, k2=100, normalize=False),
    "center": with_centers,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
make_ups = pytest.mark.parametrize("samples, fine_classes", [(1, 1), (6, 1), (8, 9), (24, 9)])


@pytest.fixture
def device(monkeypatch):
    return make_cupy(monkeypatch)


def batch(seed, samples=24, fine_classes=CLASSES, levels=4):
    features, labels, _ = random_batch(seed, levels, samples, fine_classes, DIMENSIONS)
    return features, [level.astype(np.float32) for level in labels]


def on_device(cupy, features, labels):
    return cupy.array_of(features), [cupy.array_of(level) for level in labels]


def assert_same(actual, expected, tolerance=1e-12):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=0)


@each_loss
@make_ups
def test_same_values_as_on_the_host(device, loss, samples, fine_classes):
    cupy, _ = device
    for seed in range(3):
        features, labels = batch(seed, samples, fine_classes)
        on_host = loss(features, labels)
        there, labels_there = on_device(cupy, features, labels)
        terms = loss(there, labels_there)
        for name in ("loss", "diagnostics"):
            value = cupy.values_of(getattr(terms, name))
            assert_same(value, np.asarray(getattr(on_host, name)))
        for own in (None, samples // 2):
            weight = cupy.array_of(np.float32(0.7))
            gradient = cupy.values_of(terms.gradient(there, weight, own))
            assert_same(gradient, on_host.gradient(features, np.float32(0.7), own), 1e-6)
            out = cupy.empty(gradient.shape, np.float32)
            terms.gradient(there, weight, own, out)
            assert np.array_equal(cupy.values_of(out), gradient)


@pytest.mark.parametrize("name", ["glm", "contrastive", "triplet-semihard", "minmax"])
def test_coefficients_are_float64_and_the_same(device, name):
    cupy, _ = device
    features, labels = batch(3)
    terms = LOSSES[name](*on_device(cupy, features, labels))
    assert_same(cupy.values_of(terms.coefficients), LOSSES[name](features, labels).coefficients)


@each_loss
def test_as_many_kernels_for_one_class_as_for_many(device, loss):
    cupy, counter = device
    counts = []
    for fine_classes in (1, 2, CLASSES):
        there, labels = on_device(cupy, *batch(0, 24, fine_classes))
        counter.launches = 0
        loss(there, labels).gradient(there, cupy.array_of(np.float32(1)))
        counts.append(counter.launches)
    assert counts[0] > 5 and len(set(counts)) == 1


@each_loss
def test_no_float64_copy_of_the_features(device, loss, monkeypatch):
    """But for scratch, which large features go through in parts."""
    cupy, counter = device
    monkeypatch.setattr("python_layers.pairwise.SCRATCH", 24 * 2)
    there, labels = on_device(cupy, *batch(0))
    counter.results.clear()
    loss(there, labels).gradient(there)
    large = [dtype for dtype, shape in counter.results if shape == (24, DIMENSIONS)]
    assert large and set(large) == {np.dtype(np.float32)}


@each_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_with_nan_or_inf_make_the_loss_nan_or_inf(device, loss, bad):
    cupy, _ = device
    features, labels = batch(1)
    features[5, 2] = bad
    terms = loss(*on_device(cupy, features, labels))
    assert not np.isfinite(cupy.values_of(terms.loss))


def test_duplicate_features_and_ties(device):
    cupy, _ = device
    features, labels = batch(2)
    features = np.repeat(features[:6], 4, axis=0)
    for name, loss in LOSSES.items():
        value = cupy.values_of(loss(*on_device(cupy, features, labels)).loss)
        assert value == pytest.approx(float(loss(features, labels).loss), rel=1e-12), name


@make_ups
def test_centres_move_as_on_the_host(device, samples, fine_classes):
    cupy, _ = device
    features, labels = batch(4, samples, fine_classes)
    centers = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS)).astype(np.float32)
    there, labels_there = on_device(cupy, features, labels)
    centers_there = cupy.array_of(centers)
    center.forward(there, labels_there[:1], centers_there).move(centers_there, 0.3)
    center.forward(features, labels[:1], centers).move(centers, 0.3)
    assert_same(cupy.values_of(centers_there), centers, 1e-6)


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("signed_sqrt", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_bilinear_pooling(device, count, signed_sqrt, l2_normalize):
    cupy, _ = device
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(3, c, 6)).astype(np.float32) for c in (5, 4)[:count]]
    diff = rng.normal(size=(3, 5, 4 if count == 2 else 5)).astype(np.float32)
    there = [cupy.array_of(values) for values in maps]
    expected = bilinear.forward(maps, signed_sqrt, l2_normalize)
    pooled = bilinear.forward(there, signed_sqrt, l2_normalize)
    assert_same(cupy.values_of(pooled.descriptors), expected.descriptors, 1e-6)
    for actual, gradient in zip(pooled.gradients(there, cupy.array_of(diff)),
                                expected.gradients(maps, diff), strict=True):
        assert_same(cupy.values_of(actual), gradient, 1e-6)


def test_memory_of_earlier_batches(device):
    cupy, _ = device
    there, here = SampleMemory(7), SampleMemory(7)
    for seed, samples in enumerate([4, 6, 3, 12]):
        features, labels = batch(seed, samples)
        on_host = here.behind(features, labels)
        kept, labels_there = there.behind(*on_device(cupy, features, labels))
        for actual, expected in zip([kept, *labels_there], [on_host[0], *on_host[1]]):
            assert np.array_equal(cupy.values_of(actual), expected)
        here.keep()
        there.keep()


@pytest.mark.parametrize("act", [
    float, bool, int, list, np.asarray, np.sum,
    lambda a: a[a > 0], lambda a: a + np.ones(3), lambda a: np.ones(3) * a, lambda a: a[np.arange(2)],
    lambda a: max(a, 1), lambda a: a.item(), lambda a: f"{a:.3f}"])
def test_the_wall_holds(device, act):
    """So that the tests above mean something."""
    with pytest.raises((Waited, TypeError)):
        act(device[0].array_of([1.0, 2.0, 3.0]))


def test_the_tables_are_cupys_own():
    cupy = pytest.importorskip("cupy", reason="CuPy, whose functions these are, isn't installed")
    for name, parameters in FUNCTIONS.items():
        with contextlib.suppress(ValueError):  # some have no signature
            assert list(inspect.signature(getattr(cupy, name)).parameters) == parameters.split()
    for name in UFUNCS:
        assert "ufunc" in type(getattr(cupy, name)).__name__.lower()
    for name, parameters in {**METHODS, **VIEWS}.items():
        first_line = getattr(cupy.ndarray, name).__doc__.splitlines()[0]
        assert all(parameter in first_line for parameter in parameters.split()), first_line
