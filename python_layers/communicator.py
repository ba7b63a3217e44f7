"""Where several processes train one net together: the samples of all of them, for a loss of pairs.

Each process, a rank, runs the net on its own batch, and the gradients of the weights are averaged.
A loss that is a mean over samples is then that of all batches. One that compares samples isn't: it
must see all samples in every rank. For a loss L of all samples, the gradient that weight w needs
is the sum over the ranks r of dL/dX_r dX_r/dw, X_r the rank's own features; what the average makes
of the ranks' gradients is that sum over their number. So a rank's gradient is dL/dX_r times the
number of ranks.

This module imports neither Caffe nor a library that joins processes: tools/parallel does.
"""


class Alone:
    """One process that trains by itself; what the layers need to know of any communicator.

    rank, size: this process's number, from 0, and the number of all.
    """

    rank, size = 0, 1

    def gather(self, array):
        """The arrays of all ranks, joined along the first axis in the order of the ranks: the same
        bytes in all of them.

        array: n x ... float32 of NumPy or CuPy; every rank has to give the same shape. With one
        rank the array itself.
        """
        return array

    def own(self, samples):
        """Where in what `gather` gave the `samples` rows of this rank are: a slice."""
        return slice(self.rank * samples, (self.rank + 1) * samples)


ALONE = Alone()
_current = ALONE


def current():
    """The communicator that a layer's pass has to use: ALONE but for a training iteration."""
    return _current


def use(communicator):
    """What `current` gives from now on.

    Whoever trains in parallel sets its own at the start of an iteration, and ALONE when the
    gradients are there: a test, which one rank runs, must not wait for the others.
    """
    global _current
    _current = communicator
