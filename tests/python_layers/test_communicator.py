"""Layers that train in several processes: each rank's part of the loss of all samples."""

import numpy as np
import pytest
from batches import random_batch
from layer_nets import make_net, run

from python_layers import communicator, glm

LAYERS = {
    "glm_loss.GLMLossLayer": {"margins": [3], "k": 2, "normalize": True},
    "contrastive_loss.ContrastiveLossLayer": {"margin": 3},
    "gtl_loss.GTLLossLayer": {"margins": [3], "normalize": False},
    "triplet_loss.TripletLossLayer": {"mining": "semihard"},
    "minmax_loss.MinMaxLossLayer": {"k1": 5, "k2": 1},
    "center_loss.CenterLossLayer": {"num_classes": 4},
}
RANKS, SAMPLES = 3, 4  # per rank


class Rank(communicator.Alone):
    """One of RANKS, which knows the arrays of the others in advance."""

    size = RANKS

    def __init__(self, rank, everything):
        self.rank, self._everything = rank, everything

    def gather(self, array):
        (whole,) = (each for each in self._everything if each[:1].shape == array[:1].shape)
        assert (whole[self.own(SAMPLES)] == array).all()
        return whole


@pytest.fixture
def use():
    yield communicator.use
    communicator.use(communicator.ALONE)


def batch():
    features, labels, _ = random_batch(1, 1, RANKS * SAMPLES, fine_classes=4, dimensions=4)
    return features.astype(np.float32), labels[0].astype(np.float32)


@pytest.mark.parametrize("layer", LAYERS)
def test_ranks_parts_make_the_gradient_of_one_batch(tmp_path, layer, use):
    """The loss is that of all samples; the mean over the ranks, each with its own rows, is the
    gradient. In the second pass the centers have moved."""
    features, labels = batch()
    alone = make_net(tmp_path, layer, LAYERS[layer], samples=RANKS * SAMPLES, loss_weight=2)
    ranks = [
        make_net(tmp_path, layer, LAYERS[layer], samples=SAMPLES, loss_weight=2)
        for _ in range(RANKS)
    ]
    for _ in range(2):
        expected, gradient = run(alone, features, labels)
        assert expected > 0
        for number, net in enumerate(ranks):
            member = Rank(number, [features, labels])
            own = member.own(SAMPLES)
            use(member)
            loss, part = run(net, features[own], labels[own])
            use(communicator.ALONE)
            assert loss == expected
            assert part / RANKS == pytest.approx(
                gradient[own], abs=float(1e-6 * np.abs(gradient).max())
            )
    for net in ranks:
        for blob, expected in zip(net.params.get("metric", []), alone.params.get("metric", [])):
            assert np.array_equal(blob.data, expected.data) and blob.data.any()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_without_samples_is_refused(tmp_path, layer, use):
    """Otherwise the other ranks would wait for it forever."""
    net = make_net(tmp_path, layer, LAYERS[layer])
    for blob in ("features", "label_1"):
        net.blobs[blob].reshape(0, *net.blobs[blob].shape[1:])
    net.forward()
    use(Rank(0, []))
    with pytest.raises(ValueError, match=f"{layer.split('.')[1]}: a batch without samples can't"):
        net.forward()


def test_memory_holds_the_samples_of_all_ranks(tmp_path, use):
    layer, parameters = "glm_loss.GLMLossLayer", {"margins": [3], "memory": 20}
    features, labels = batch()
    alone = make_net(tmp_path, layer, parameters, samples=RANKS * SAMPLES)
    net = make_net(tmp_path, layer, parameters, samples=SAMPLES)
    own = slice(SAMPLES, 2 * SAMPLES)
    for times in (1, 2, 3):
        use(communicator.ALONE)
        expected, _ = run(alone, features * times, labels)
        use(Rank(1, [features * times, labels]))
        loss, _ = run(net, features[own] * times, labels[own])
        assert loss == expected
    assert loss != glm.forward(features * 3, [labels], [3]).loss  # the memory had a part in it
