"""Communication between the ranks of one training: MPI on CPUs, NCCL on GPUs.

Both have the interface of a communicator (python_layers/communicator.py: rank, size, gather, own),
and `join`, which couples the ranks' solvers. Host values that all ranks must agree on, such as a
request to stop, go through MPI on GPUs too.
"""

import numpy as np

from data_prep.common.errors import UserError
from python_layers.communicator import Alone


class Mpi(Alone):
    """Arrays in host memory.

    comm: mpi4py's communicator.
    """

    def __init__(self, comm):
        self._comm, self.rank, self.size = comm, comm.rank, comm.size

    def gather(self, array):
        array = np.ascontiguousarray(array)
        shapes = self._comm.allgather(array.shape)
        if len(set(shapes)) > 1:
            raise ValueError(
                "the ranks' batches differ in shape: "
                + ", ".join("x".join(map(str, shape)) for shape in shapes)
            )
        joined = np.empty((self.size * len(array), *array.shape[1:]), array.dtype)
        self._comm.Allgather(array, joined)
        return joined

    def join(self, solver):
        """Give all ranks the weights of rank 0, and from now on each update the mean gradient."""
        for blob in _parameters(solver.net):
            self._comm.Bcast(blob.data)
        solver.add_callback(lambda: None, lambda: self._average(solver.net))

    def _average(self, net):
        from mpi4py import MPI

        for blob in _parameters(net):
            self._comm.Allreduce(MPI.IN_PLACE, blob.diff)
            blob.diff[...] /= self.size


def _parameters(net):
    """A net's parameter blobs, those that layers share once."""
    return list(
        {
            blob.data.ctypes.data: blob
            for blobs in net.params.values()
            for blob in blobs
            if blob.count
        }.values()
    )


class Nccl(Alone):
    """Arrays in the memory of this process's GPU, by way of CuPy; the gradients by Caffe itself.

    comm: mpi4py's communicator, for the ids by which NCCL's own find each other.
    Rows are joined on the default stream, which is Caffe's and the layers': nothing waits for it.
    Caffe sums gradients on a stream of its own, which it has waited for when an iteration ends, so
    that the two never meet on the wire.
    """

    def __init__(self, comm):
        from tools.pycaffe import caffe

        self._comm, self.rank, self.size = comm, comm.rank, comm.size
        try:
            import cupy
            from cupy.cuda import nccl
        except ImportError as error:
            raise UserError(
                f"several GPUs need CuPy with NCCL, which can't be imported ({error}): "
                "pip install the cupy package of this CUDA version, such as "
                "cupy-cuda13x"
            ) from None
        self._cupy, self._float = cupy, nccl.NCCL_FLOAT32
        self._caffe_id = comm.bcast(caffe.NCCL.new_uid() if self.rank == 0 else None)
        unique = comm.bcast(nccl.get_unique_id() if self.rank == 0 else None)
        self._nccl = nccl.NcclCommunicator(self.size, unique, self.rank)

    def gather(self, array):
        cupy = self._cupy
        array = cupy.ascontiguousarray(array)
        joined = cupy.empty((self.size * len(array), *array.shape[1:]), array.dtype)
        self._nccl.allGather(
            array.data.ptr, joined.data.ptr, array.size, self._float, cupy.cuda.Stream.null.ptr
        )
        return joined

    def join(self, solver):
        """Give all ranks the weights of rank 0, and from now on each update the mean gradient."""
        from tools.pycaffe import caffe

        self._caffe = caffe.NCCL(solver, self._caffe_id)  # Caffe keeps no reference
        self._caffe.bcast()
        solver.add_callback(self._caffe)
        if solver.param.layer_wise_reduce:  # each layer's gradient travels while others compute
            solver.net.after_backward(self._caffe)
