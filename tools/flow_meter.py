"""The flows of a net: the gradient that each loss alone sends into one blob, Algorithm 1."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Flow:
    """What one loss sends into the blob at one iteration.

    weight  loss_weight
    value   of the loss, without the weight
    norm    of its gradient with the weight, over the batch
    share   of the sum of the norms of all losses, 0 to 1; 0 where that is 0
    """

    loss: str
    weight: float
    value: float
    norm: float
    share: float


@dataclass(frozen=True)
class Measurement:
    """All flows at one iteration.

    norm       of the gradient of all losses together
    deviation  norm of its difference from the sum of the flows, relative to the larger of `norm`
               and the sum of the flows' norms: flows that cancel leave rounding of their own size.
               Or, if larger, that of the gradient which the training left in the blob.
    """

    iteration: int
    flows: tuple
    norm: float
    deviation: float

    def is_finite(self):
        values = [self.norm, *(value for flow in self.flows for value in (flow.value, flow.norm))]
        return all(map(math.isfinite, values))


class FlowMeter:
    """Measures the flows into a blob between a net's backward pass and the solver's update.

    net   caffe.Net
    blob  name of a blob that a layer of it writes

    losses: {name of each loss: its loss_weight}; reaching: those that depend on the blob.
    """

    def __init__(self, net, blob):
        self._net, self._blob = net, blob
        names = list(net._layer_names)
        # The last writer counts: layers in place, such as ReLU, write the blob too. Backward they
        # overwrite its gradient, which is then that before them.
        writers = [i for i, name in enumerate(names) if blob in net.top_names[name]]
        self._made, self._first = writers[0] + 1, writers[-1] + 1
        self._behind = names[self._first :]
        self.losses = {name: float(w) for name, w in net.blob_loss_weights.items() if w}
        dependent = {blob}
        for name in self._behind:
            if dependent.intersection(net.bottom_names[name]):
                dependent.update(net.top_names[name])
        self.reaching = [name for name in self.losses if name in dependent]

    def measure(self, iteration):
        """Measurement of the batch of the last forward pass, which a backward pass has followed.

        The layers behind the blob run backward once more per loss. The gradients of their weights
        are put back afterwards; those of blobs, which the solver does not read, are not.
        """
        net = self._net
        left = self._gradient()
        own = [blob for name in self._behind for blob in net.params.get(name, ())]
        kept = [blob.diff.copy() for blob in own]
        total, norms = np.zeros_like(left), dict.fromkeys(self.losses, 0.0)
        for loss in self.reaching:
            alone = self._backward([loss])
            total += alone
            norms[loss] = float(np.linalg.norm(alone))
        whole = self._backward(self.losses)
        if self._made < self._first:
            net._backward(self._first - 1, self._made)
        again = self._gradient()
        for blob, values in zip(own, kept):
            blob.diff[...] = values
        norm, summed = float(np.linalg.norm(whole)), sum(norms.values())
        largest = max(norm, summed)
        difference = max(float(np.linalg.norm(d)) for d in (total - whole, again - left))
        flows = tuple(
            Flow(
                loss,
                weight,
                float(net.blobs[loss].data.sum()),
                norms[loss],
                norms[loss] / summed if summed else 0.0,
            )
            for loss, weight in self.losses.items()
        )
        return Measurement(iteration, flows, norm, difference / largest if largest else 0.0)

    def _backward(self, losses):
        """The blob's gradient with all losses but these switched off."""
        # Caffe holds a loss's weight in the gradient of its top.
        for name, weight in self.losses.items():
            self._net.blobs[name].diff[...] = weight if name in losses else 0
        self._net._backward(self._first + len(self._behind) - 1, self._first)
        for name, weight in self.losses.items():
            self._net.blobs[name].diff[...] = weight
        return self._gradient()

    def _gradient(self):
        return self._net.blobs[self._blob].diff.astype(np.float64)  # a copy
