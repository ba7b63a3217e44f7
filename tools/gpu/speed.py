"""Images per second of a training step's forward and backward passes, in Caffe and in PyTorch."""

import itertools
import os
import statistics
import time

import numpy as np

from tools import solver_net
from tools.torch_net import TorchNet
from tools.training_net import training_net

from .nets import random_net

WARM_UP = 5  # steps in which algorithms are chosen and memory is reserved


def seconds_per_step(step, wait, seconds):
    """Mean over as many steps as fit into `seconds`, the GPU's queue worked off at the end.

    step: starts a step;  wait: returns when all are done.
    """
    for _ in range(WARM_UP):
        step()
    wait()
    start = time.perf_counter()
    for count in itertools.count(1):
        step()
        if count % WARM_UP == 0:  # a queue that grows without end would be filled after the clock
            wait()
            if time.perf_counter() - start >= seconds:
                return (time.perf_counter() - start) / count


def use_tf32(wanted):
    """Set the precision of this process, before it uses Caffe; without TF32, float32 throughout."""
    os.environ["CAFFE_TF32"] = "1" if wanted else "0"


def _net(solver, batch, gpu):
    """(NetParameter, caffe.Net) of a solver's training net; labels as in a shuffled data set."""
    proto, tree = training_net(solver_net.read_solver(solver), batch)
    fine = np.random.default_rng(1).integers(len(tree), size=batch)
    return proto, random_net(proto, gpu, tree[fine])


def caffe_step(solver, batch, gpu):
    """(step, wait) of Caffe's net, images and weights on its side already."""
    _, net = _net(solver, batch, gpu)
    loss = net.outputs[0]

    def step():  # net.forward() would copy the losses to the host each time
        net._forward(0, len(net.layers) - 1)
        net._backward(len(net.layers) - 1, 0)

    return step, lambda: float(net.blobs[loss].data.flat[0])


def torch_step(solver, batch, gpu):
    """(step, wait) of the same net in PyTorch."""
    import torch

    proto, from_caffe = _net(solver, batch, False)
    device = "cuda" if gpu else "cpu"
    net = TorchNet(
        proto,
        {name: [blob.data for blob in blobs] for name, blobs in from_caffe.params.items()},
        device,
    )
    data, label = (
        torch.tensor(from_caffe.blobs[name].data, device=device) for name in ("data", "label")
    )
    tensors = list(itertools.chain(*net.parameters.values()))

    def step():
        for tensor in tensors:
            tensor.grad = None
        net(data, label).backward()

    return step, torch.cuda.synchronize if gpu else lambda: None


def measure(engine, solver, batch, tf32, gpu, seconds):
    """Images per second. engine: "caffe" or "torch"; in a process of its own, since Caffe reads
    the precision once."""
    use_tf32(tf32)
    if engine == "torch":
        import torch

        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    make = {"caffe": caffe_step, "torch": torch_step}[engine]
    return batch / seconds_per_step(*make(solver, batch, gpu), seconds)


def share(solver, without, batch, gpu, rounds, seconds):
    """(share, seconds of a step): the part of a step that the layers take which `solver` has and
    `without`, a solver of the same net, lacks. Measured in turn, medians."""
    use_tf32(False)
    steps = [caffe_step(path, batch, gpu) for path in (solver, without)]
    times = np.array([[seconds_per_step(*step, seconds) for step in steps] for _ in range(rounds)])
    whole, rest = (statistics.median(column) for column in times.T)
    return 1 - rest / whole, whole
