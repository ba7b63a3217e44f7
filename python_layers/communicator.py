"""Gathers the samples of all processes that train one net, for losses that compare samples.

Each process, a rank, runs the net on its own batch, and the gradients of the weights are averaged.
For a loss that is a mean over samples this average is the gradient of the joint batch. A loss that
compares samples must see the samples of all ranks in every rank. For such a loss L, the gradient
of a weight w is the sum over the ranks r of dL/dX_r dX_r/dw, with X_r the features of rank r; the
average divides this sum by the number of ranks. A rank therefore sends dL/dX_r times the number of
ranks into its features.

This module imports neither Caffe nor a library for communication; tools/parallel does.
"""


class Alone:
    """A single process: the interface that the layers expect of a communicator.

    rank, size: the number of this process, from 0, and the number of processes.
    """

    rank, size = 0, 1

    def gather(self, array):
        """The arrays of all ranks, concatenated along the first axis in the order of the ranks: the
        same bytes in every rank. With one rank, the array itself.

        array: n x ... float32 of NumPy or CuPy, of the same shape in every rank.
        """
        return array

    def own(self, samples):
        """Slice of the rows of this rank, `samples` in number, in the result of `gather`."""
        return slice(self.rank * samples, (self.rank + 1) * samples)


ALONE = Alone()
_current = ALONE


def current():
    """The communicator for a layer's pass: ALONE except during a parallel training iteration."""
    return _current


def use(communicator):
    """Set the communicator that `current` returns.

    Parallel training sets its own at the start of an iteration, and ALONE when the gradients have
    been computed: a test, which a single rank runs, must not wait for the others.
    """
    global _current
    _current = communicator
