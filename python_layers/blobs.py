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
    """`with` it, NumPy's BLAS computes in one thread.

    NumPy brings a BLAS of its own, whose threads would fight for the processors with those of
    Caffe's, which spin for a while after each product: on two cores a Gram matrix of 1 ms took 65,
    and the layers of Caffe around it a fifth longer.
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
    """Blobs as NumPy arrays. queue: what is done inside `with queue` leaves the cores to Caffe."""

    queue = _OneBlasThread()

    @staticmethod
    def data(blob):
        return blob.data

    @staticmethod
    def diff(blob):
        return blob.diff


class DeviceBlobs:
    """Blobs as CuPy arrays over their own device memory.

    An array is good until Caffe reshapes the blob or uses it on the host: take it anew each time.
    Both ways of access tell Caffe that the device has the newest values.
    queue: Caffe launches its kernels on the default stream; what is done inside `with queue` takes
           its turn among them, with no waiting.
    """

    def __init__(self, cupy):
        self._cupy = cupy
        self.queue = cupy.cuda.Stream.null

    def data(self, blob):
        return self._array(blob, "_gpu_data_ptr")

    def diff(self, blob):
        return self._array(blob, "_gpu_diff_ptr")

    def _array(self, blob, pointer):
        cupy, shape = self._cupy, tuple(blob.shape)
        if blob.count == 0:  # has no memory
            return cupy.empty(shape, np.float32)
        memory = cupy.cuda.UnownedMemory(
            getattr(blob, pointer), blob.count * np.dtype(np.float32).itemsize, blob
        )
        return cupy.ndarray(shape, np.float32, cupy.cuda.MemoryPointer(memory, 0))


def blobs_of_mode():
    """HostBlobs in CPU mode, DeviceBlobs in GPU mode; without CuPy HostBlobs there too, with one
    line in the log.

    The mode is that of now: a layer asks in its setup, when its net is made.
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
            f"CuPy can't be imported ({error}): Python layers compute on the CPU, and copy "
            "their features there and back in every pass. pip install the cupy package of "
            "this CUDA version, 14 or later, such as cupy-cuda12x"
        )
        return None


def _gpu_mode():
    """Whether Caffe is in GPU mode, which pycaffe has no function for.

    In GPU mode, and only there, Caffe takes a blob's host memory from cudaMallocHost
    (include/caffe/syncedmem.hpp: CaffeMallocHost), and the driver knows that memory.
    """
    probe = caffe._caffe.BlobVec()
    probe.add_blob(1)
    # Of the type, since the blob's own would move it to the device.
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
