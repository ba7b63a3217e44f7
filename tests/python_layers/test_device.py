"""The maths on arrays of a device, behind a wall that no value comes through: fake_cupy.py."""

import inspect

import device_cases
import numpy as np
import pytest
from device_cases import (
    ANCHORS,
    CLASSES,
    DIMENSIONS,
    LOSSES,
    MAKE_UPS,
    assert_same,
    batch,
    on_device,
)
from fake_cupy import FUNCTIONS, METHODS, UFUNCS, VIEWS, Waited, make_cupy

pytestmark = pytest.mark.filterwarnings("error")

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
make_ups = pytest.mark.parametrize("samples, fine_classes", MAKE_UPS)


@pytest.fixture
def device(monkeypatch):
    return make_cupy(monkeypatch)


@each_loss
@make_ups
def test_same_values_as_on_the_host(device, loss, samples, fine_classes):
    cupy, counter = device
    device_cases.check_loss(cupy, counter.no_waiting, loss, samples, fine_classes)


@make_ups
def test_centers_move_as_on_the_host(device, samples, fine_classes):
    cupy, counter = device
    device_cases.check_moving_centers(cupy, counter.no_waiting, samples, fine_classes)


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("signed_sqrt", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_bilinear_pooling(device, count, signed_sqrt, l2_normalize):
    cupy, counter = device
    device_cases.check_bilinear_pooling(cupy, counter.no_waiting, count, signed_sqrt, l2_normalize)


def test_memory_of_earlier_batches(device):
    device_cases.check_memory(device[0], device[1].no_waiting)


@pytest.mark.parametrize("name", ["glm", "contrastive", "triplet-semihard", "minmax"])
def test_coefficients_are_float64_and_the_same(device, name):
    cupy, _ = device
    features, labels = batch(3)
    terms = LOSSES[name](*on_device(cupy, features, labels))
    assert_same(cupy.asnumpy(terms.coefficients), LOSSES[name](features, labels).coefficients)


@each_loss
def test_as_many_kernels_for_one_class_as_for_many(device, loss):
    cupy, counter = device
    counts = []
    for fine_classes in (1, 2, CLASSES):
        there, labels = on_device(cupy, *batch(0, 24, fine_classes))
        counter.launches = 0
        loss(there, labels).gradient(there, cupy.asarray(np.float32(1)))
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
    large = [
        dtype
        for dtype, shape in counter.results
        if shape in ((24, DIMENSIONS), (ANCHORS, DIMENSIONS))
    ]
    assert large and set(large) == {np.dtype(np.float32)}


@each_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_with_nan_or_inf_make_the_loss_nan_or_inf(device, loss, bad):
    cupy, _ = device
    features, labels = batch(1)
    features[5, 2] = bad
    terms = loss(*on_device(cupy, features, labels))
    assert not np.isfinite(cupy.asnumpy(terms.loss))


def test_duplicate_features_and_ties(device):
    cupy, _ = device
    features, labels = batch(2)
    features = np.repeat(features[:6], 4, axis=0)
    for name, loss in LOSSES.items():
        value = cupy.asnumpy(loss(*on_device(cupy, features, labels)).loss)
        assert value == pytest.approx(float(loss(features, labels).loss), rel=1e-12), name


@pytest.mark.parametrize(
    "act",
    [
        float,
        bool,
        int,
        list,
        np.asarray,
        np.sum,
        lambda a: a[a > 0],
        lambda a: a + np.ones(3),
        lambda a: np.ones(3) * a,
        lambda a: a[np.arange(2)],
        lambda a: np.arange(3)[a],
        lambda a: max(a, 1),
        lambda a: a.item(),
        lambda a: f"{a:.3f}",
    ],
)
def test_the_wall_holds(device, act):
    """So that the tests above mean something."""
    cupy, counter = device
    with pytest.raises((Waited, TypeError)), counter.no_waiting():
        act(cupy.asarray([1.0, 2.0, 3.0]))


def test_the_wall_has_no_gate(device):
    cupy, counter = device
    values = cupy.asarray([1.0, 2.0])
    with pytest.raises(Waited), counter.no_waiting():
        cupy.asnumpy(values)


def test_the_tables_are_cupys_own():
    cupy = pytest.importorskip("cupy", reason="CuPy, whose functions these are, isn't installed")
    for name, parameters in FUNCTIONS.items():
        assert list(inspect.signature(getattr(cupy, name)).parameters) == parameters.split()
    for name in UFUNCS:
        assert "ufunc" in type(getattr(cupy, name)).__name__.lower()
    for name, parameters in {**METHODS, **VIEWS}.items():
        first_line = getattr(cupy.ndarray, name).__doc__.splitlines()[0]
        assert all(parameter in first_line for parameter in parameters.split()), first_line
