"""The layers over device memory: real Caffe nets, whose blobs' host memory plays the device's.

tests/python_layers/test_gpu.py does the same on a GPU.
"""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from device_cases import LAYERS, assert_same_passes, losses_net, passes, pooling_outcome
from fake_cupy import Waited, make_cupy

from python_layers import blobs

each_layer = pytest.mark.parametrize("layer", LAYERS)
Blob = caffe._caffe.Blob


@pytest.fixture
def on_device(monkeypatch):
    """A function; from its call on, nets are made as in GPU mode: returns the fake cupy."""

    def begin():
        cupy, device = make_cupy(monkeypatch)
        device.queue = stream = cupy.cuda.Stream.null
        host = {name: getattr(Blob, name) for name in ("data", "diff")}

        def of_host(name):
            def read(blob):
                if stream.entered:
                    raise Waited(f"blob.{name} copies from the device")
                return host[name].fget(blob)

            return property(read)

        def of_device(name):
            def pointer(blob):
                assert stream.entered, "device memory used outside the default stream"
                return host[name].fget(blob).ctypes.data

            return property(pointer)

        for name in ("data", "diff"):
            monkeypatch.setattr(Blob, name, of_host(name))
            monkeypatch.setattr(Blob, f"_gpu_{name}_ptr", of_device(name), raising=False)
        monkeypatch.setattr(blobs, "_is_pinned", lambda address: True)
        return cupy

    blobs._cupy.cache_clear()
    yield begin
    blobs._cupy.cache_clear()


@each_layer
def test_same_as_on_the_host(tmp_path, layer, on_device):
    expected = passes(losses_net(tmp_path, layer))
    on_device()
    assert_same_passes(passes(losses_net(tmp_path, layer)), expected)


@each_layer
def test_empty_batch(tmp_path, layer, on_device):
    on_device()
    net = losses_net(tmp_path, layer)
    passes(net, [12])
    for name in ("features", "label_1", "label_2"):
        if name in net.blobs:
            net.blobs[name].reshape(0, *list(net.blobs[name].shape)[1:])
    assert net.forward()["loss"] == 0
    net.backward()


@each_layer
def test_features_with_nan_show_in_the_loss(tmp_path, layer, on_device):
    on_device()
    net = losses_net(tmp_path, layer)
    net.blobs["features"].data[...] = np.nan
    assert np.isnan(net.forward()["loss"])


@pytest.mark.parametrize("bottoms", [1, 2])
def test_bilinear_pooling(tmp_path, bottoms, on_device):
    expected = pooling_outcome(tmp_path, bottoms)
    on_device()
    assert_same_passes([pooling_outcome(tmp_path, bottoms)], [expected])


def test_a_layer_that_asked_the_host_would_be_caught(tmp_path, on_device, monkeypatch):
    """So that the tests above mean something."""
    on_device()
    net = losses_net(tmp_path, "contrastive")
    monkeypatch.setattr(blobs.DeviceBlobs, "data", lambda self, blob: blob.data)
    with pytest.raises(Waited, match="blob.data copies from the device"):
        net.forward()


@pytest.mark.parametrize("status, kind, pinned", [(0, 1, True), (0, 2, False), (1, 0, False)])
def test_memory_that_the_driver_knows_is_pinned(monkeypatch, status, kind, pinned):
    """The driver's answers: host memory of its own, device memory, an address it doesn't know."""

    def pointer_get_attribute(result, attribute, address):
        assert attribute.value == 2 and address.value == 4096  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        result._obj.value = kind
        return status

    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: SimpleNamespace(cuPointerGetAttribute=pointer_get_attribute)
    )
    assert blobs._is_pinned(4096) is pinned


def test_without_a_driver_nothing_is_pinned(monkeypatch):
    def no_driver(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert not blobs._is_pinned(4096)


@pytest.mark.parametrize("pinned", [False, True])
def test_the_mode_is_read_from_fresh_host_memory(monkeypatch, pinned):
    monkeypatch.setattr(blobs, "_is_pinned", lambda address: pinned)
    monkeypatch.setattr(Blob, "_gpu_data_ptr", property(lambda blob: 1 / 0), raising=False)
    assert blobs._gpu_mode() is pinned


def test_without_cupy_the_host_computes_and_says_so_once(tmp_path, on_device, monkeypatch):
    on_device()
    monkeypatch.setitem(sys.modules, "cupy", None)
    lines = []
    monkeypatch.setattr(caffe, "log", lines.append)
    for _ in range(2):
        assert blobs.blobs_of_mode() is blobs.HostBlobs
        passes(losses_net(tmp_path, "glm"), [12])
    (line,) = lines
    assert "CuPy can't be imported" in line and "cupy-cuda12x" in line


def test_cpu_mode_never_imports_cupy():
    code = (
        "import importlib, sys; from python_layers import blobs; "
        "assert blobs.blobs_of_mode() is blobs.HostBlobs; "
        f"[importlib.import_module('python_layers.' + m) for m in "
        f"{sorted({name.split('.')[0] for name, *_ in LAYERS.values()})}]; "
        "assert not [m for m in sys.modules if m.startswith('cupy')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
