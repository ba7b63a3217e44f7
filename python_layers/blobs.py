"""A layer's blobs as arrays: NumPy's over host memory, or CuPy's over a GPU's, in place.

`Blob.data` of pycaffe is host memory: in GPU mode Caffe copies the blob from the device before it
hands it out, and back for the next layer. `Blob._gpu_data_ptr` and `_gpu_diff_ptr` give the address
on the device, and CuPy makes an array of it without a copy.
"""

import ctypes
import functools
import importlib
from pathlib import Path

import caffe
import numpy as np
from threadpoolctl import ThreadpoolController


class _OneBlasThread:
    """Context manager that limits NumPy's BLAS to one thread.

    NumPy has its own BLAS, whose threads spin for a while after each product and so compete for the
    cores with Caffe's, which compute the next layers.
    """

    @functools.cached_property
    def _blas(self):
        numpys = Path(np.__file__).parent.parent
        libraries = ThreadpoolController().select(user_api="blas")
        return libraries.select(
            filepath=[
                library.filepath
                for library in libraries.lib_controllers
                if Path(library.filepath).is_relative_to(numpys)
            ]
        )

    def __enter__(self):
        self._limit = self._blas.limit(limits=1)

    def __exit__(self, *_):
        self._limit.restore_original_limits()


class HostBlobs:
    """Blobs as NumPy arrays. queue: context manager in which NumPy leaves the cores to Caffe."""

    queue = _OneBlasThread()

    @staticmethod
    def data(blob):
        return blob.data

    @staticmethod
    def diff(blob):
        return blob.diff

    @staticmethod
    def constant(array):
        """A NumPy array where the blobs' arrays are."""
        return array


class DeviceBlobs:
    """Blobs as CuPy arrays over their own device memory.

    An array is valid until Caffe reshapes the blob or uses it on the host: request it each time.
    Both methods mark the device's values as the newest.
    queue: context manager that puts kernels on the default stream, Caffe's own, so that they run in
           order with Caffe's and nothing has to wait.
    """

    def __init__(self, cupy):
        self._cupy = cupy
        self.queue = cupy.cuda.Stream.null

    def data(self, blob):
        return self._array(blob, "_gpu_data_ptr")

    def diff(self, blob):
        return self._array(blob, "_gpu_diff_ptr")

    def constant(self, array):
        return self._cupy.asarray(array)

    def _array(self, blob, pointer):
        cupy, shape = self._cupy, tuple(blob.shape)
        if blob.count == 0:  # has no memory
            return cupy.empty(shape, np.float32)
        memory = cupy.cuda.UnownedMemory(
            getattr(blob, pointer), blob.count * np.dtype(np.float32).itemsize, blob
        )
        return cupy.ndarray(shape, np.float32, cupy.cuda.MemoryPointer(memory, 0))


def blobs_of_mode():
    """HostBlobs in CPU mode, DeviceBlobs in GPU mode.

    If CuPy is missing, HostBlobs in GPU mode too, with one line in the log. Reads the current mode:
    a layer calls this in its setup, when its net is made.
    """
    if not _gpu_mode():
        return HostBlobs
    cupy = _cupy()
    return DeviceBlobs(cupy) if cupy else HostBlobs


@functools.cache
def _cupy():
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        caffe.log(
            f"CuPy can't be imported ({error}): Python layers compute on the CPU and copy "
            "their features to the host and back in every pass. pip install the cupy package of "
            "this CUDA version, 14 or later, such as cupy-cuda12x"
        )
        return None


def _gpu_mode():
    """Whether Caffe is in GPU mode. pycaffe has no function for it.

    In GPU mode only, Caffe allocates a blob's host memory with cudaMallocHost
    (include/caffe/syncedmem.hpp: CaffeMallocHost), which the driver reports as its own.
    """
    probe = caffe._caffe.BlobVec()
    probe.add_blob(1)
    # The type's attribute: reading the blob's own would move it to the device.
    if not hasattr(type(probe[0]), "_gpu_data_ptr"):
        return False  # built with CPU_ONLY
    return _is_pinned(probe[0].data.ctypes.data)


def _is_pinned(address):
    """Whether host memory is CUDA's own, by the driver's API, whose binary interface is stable."""
    MEMORY_TYPE, HOST, SUCCESS = 2, 1, 0  # of CUpointer_attribute, CUmemorytype and CUresult
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    kind = ctypes.c_uint(0)
    status = driver.cuPointerGetAttribute(
        ctypes.byref(kind), ctypes.c_int(MEMORY_TYPE), ctypes.c_uint64(address)
    )
    return status == SUCCESS and kind.value == HOST
