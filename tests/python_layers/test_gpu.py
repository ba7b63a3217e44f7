"""Losses, bilinear pooling and their layers on a GPU; skipped where there is none."""

import caffe
import device_cases
import numpy as np
import pytest
from device_cases import LAYERS, LOSSES, MAKE_UPS, losses_net, passes, pooling_outcome

from python_layers import blobs

cupy = pytest.importorskip("cupy", reason="CuPy isn't installed")
cupyx = pytest.importorskip("cupyx")
try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as no_gpu:
    pytest.skip(f"no GPU: {no_gpu}", allow_module_level=True)

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_layer = pytest.mark.parametrize("layer", LAYERS)
make_ups = pytest.mark.parametrize("samples, fine_classes", MAKE_UPS)


def no_waiting():
    """A context in which CuPy raises where it would wait for the GPU, as copies to the host do."""
    return cupyx.allow_synchronize(False)


@pytest.fixture
def gpu_mode(monkeypatch):
    """A function; from its call on Caffe is in GPU mode, and layers may not wait."""
    if not hasattr(caffe._caffe.Blob, "_gpu_data_ptr"):
        pytest.skip("this Caffe is built without CUDA")

    def begin():
        caffe.set_mode_gpu()
        queue = cupy.cuda.Stream.null

        class NoWaiting:
            """The queue that layers work in."""

            def __enter__(self):
                self.context = no_waiting()
                queue.__enter__()
                self.context.__enter__()

            def __exit__(self, *error):
                self.context.__exit__(*error)
                queue.__exit__(*error)

        def strict(self, cupy):
            self._cupy, self.queue = cupy, NoWaiting()

        monkeypatch.setattr(blobs.DeviceBlobs, "__init__", strict)

    yield begin
    caffe.set_mode_cpu()


@each_loss
@make_ups
def test_same_values_as_on_the_host(loss, samples, fine_classes):
    device_cases.check_loss(cupy, no_waiting, loss, samples, fine_classes)


@make_ups
def test_centers_move_as_on_the_host(samples, fine_classes):
    device_cases.check_moving_centers(cupy, no_waiting, samples, fine_classes)


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("signed_sqrt", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_bilinear_pooling(count, signed_sqrt, l2_normalize):
    device_cases.check_bilinear_pooling(cupy, no_waiting, count, signed_sqrt, l2_normalize)


def test_memory_of_earlier_batches():
    device_cases.check_memory(cupy, no_waiting)


def test_the_mode_is_recognized(gpu_mode):
    assert blobs.blobs_of_mode() is blobs.HostBlobs
    gpu_mode()
    assert isinstance(blobs.blobs_of_mode(), blobs.DeviceBlobs)
    caffe.set_mode_cpu()
    assert blobs.blobs_of_mode() is blobs.HostBlobs


@each_layer
def test_layers_compute_the_same_in_both_modes(tmp_path, gpu_mode, layer):
    expected = passes(losses_net(tmp_path, layer))
    gpu_mode()
    device_cases.assert_same_passes(passes(losses_net(tmp_path, layer)), expected)


@each_layer
def test_features_with_nan_show_in_the_loss(tmp_path, gpu_mode, layer):
    gpu_mode()
    net = losses_net(tmp_path, layer)
    net.blobs["features"].data[...] = np.nan
    assert np.isnan(net.forward()["loss"])


@pytest.mark.parametrize("bottoms", [1, 2])
def test_pooling_layer_computes_the_same_in_both_modes(tmp_path, gpu_mode, bottoms):
    expected = pooling_outcome(tmp_path, bottoms)
    gpu_mode()
    device_cases.assert_same_passes([pooling_outcome(tmp_path, bottoms)], [expected])
