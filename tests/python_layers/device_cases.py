"""Checks that host and device compute the same, for the real CuPy or a stand-in.

`no_waiting` is a context manager in which no value may be copied to the host.
"""

import caffe
import numpy as np
from batches import random_batch
from glm_reference import random_tree
from layer_nets import make_net, run

from python_layers import bilinear, center, contrastive, glm, gtl, minmax, triplet
from python_layers.backend import array_module
from python_layers.memory import SampleMemory

CLASSES, DIMENSIONS, ANCHORS = 9, 7, 5


def glm_of(levels, **options):
    return lambda x, y: glm.forward(x, y[:levels], [2.0] * levels, **options)


def of_fine(forward, **options):
    return lambda x, y: forward(x, y[:1], **options)


def with_centers(x, y):
    centers = array_module(x).ones((CLASSES, DIMENSIONS), np.float32)
    return center.forward(x, y[:1], centers)


LOSSES = {
    "glm": glm_of(3),
    "glm-one-level": glm_of(1, k=2),
    "glm-exact": glm_of(2, k=3, within_gradient="exact", normalize=True),
    "glm-all-pairs": glm_of(4, k=1000, classes=50),
    "glm-anchors": glm_of(3, anchors=ANCHORS, normalize=True),
    "contrastive": of_fine(contrastive.forward, margin=3),
    "contrastive-kinds": of_fine(contrastive.forward, normalize=True, average="kinds"),
    **{f"triplet-{mining}": of_fine(triplet.forward, mining=mining) for mining in triplet.MINING},
    "triplet-raw": of_fine(triplet.forward, normalize=False, margin=3, average="mined"),
    "minmax": of_fine(minmax.forward, k1=2, k2=3),
    "minmax-raw": of_fine(minmax.forward, k1=5, k2=100, normalize=False),
    "center": with_centers,
    **{
        f"gtl-{mining}": lambda x, y, mining=mining: gtl.forward(x, y[:3], [3, 2, 1], mining)
        for mining in triplet.MINING
    },
    "gtl-anchors": lambda x, y: gtl.forward(x, y[:2], [0.5, 0.2], scale=2, anchors=ANCHORS),
    "contrastive-anchors": of_fine(contrastive.forward, margin=3, anchors=ANCHORS),
    "minmax-anchors": of_fine(minmax.forward, k1=2, k2=3, anchors=ANCHORS),
    **{
        f"triplet-{mining}-anchors": of_fine(triplet.forward, mining=mining, anchors=ANCHORS)
        for mining in triplet.MINING
    },
}

MAKE_UPS = [(1, 1), (6, 1), (8, 9), (24, 9)]  # samples, fine classes

LAYERS = {  # name: (layer, parameters, levels)
    "glm": ("glm_loss.GLMLossLayer", {"margins": [2, 2]}, 2),
    "glm-memory": ("glm_loss.GLMLossLayer", {"margins": [2, 2], "memory": 9, "normalize": True}, 2),
    "gtl": ("gtl_loss.GTLLossLayer", {"margins": [4, 2], "normalize": False}, 2),
    "gtl-memory": ("gtl_loss.GTLLossLayer", {"memory": 9}, 2),
    "contrastive": ("contrastive_loss.ContrastiveLossLayer", {"margin": 3}, 1),
    "contrastive-memory": ("contrastive_loss.ContrastiveLossLayer", {"margin": 3, "memory": 9}, 1),
    "triplet-memory": ("triplet_loss.TripletLossLayer", {"memory": 9}, 1),
    "minmax-memory": ("minmax_loss.MinMaxLossLayer", {"k1": 2, "k2": 3, "memory": 9}, 1),
    "triplet": ("triplet_loss.TripletLossLayer", {}, 1),
    "minmax": ("minmax_loss.MinMaxLossLayer", {"k1": 2, "k2": 3}, 1),
    "center": ("center_loss.CenterLossLayer", {"num_classes": 9}, 1),
}


def batch(seed, samples=24, fine_classes=CLASSES, levels=4):
    features, labels, _ = random_batch(seed, levels, samples, fine_classes, DIMENSIONS)
    return features, [level.astype(np.float32) for level in labels]


def on_device(cupy, features, labels):
    return cupy.asarray(features), [cupy.asarray(level) for level in labels]


def assert_same(actual, expected, tolerance=1e-12):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=0)


def check_loss(cupy, no_waiting, loss, samples, fine_classes):
    """Loss, diagnostics and gradient, of the whole batch and of its first half."""
    for seed in range(3):
        features, labels = batch(seed, samples, fine_classes)
        on_host = loss(features, labels)
        there, labels_there = on_device(cupy, features, labels)
        weight = cupy.asarray(np.float32(0.7))
        expected = on_host.gradient(features, np.float32(0.7))
        half = len(expected) // 2
        out = cupy.zeros((half, DIMENSIONS), np.float32)
        with no_waiting():
            terms = loss(there, labels_there)
            diagnostics, gradient = terms.diagnostics(), terms.gradient(there, weight)
            terms.gradient(there, weight, slice(half), out)
        assert_same(cupy.asnumpy(terms.loss), np.asarray(on_host.loss))
        assert_same(cupy.asnumpy(diagnostics), on_host.diagnostics())
        assert_same(cupy.asnumpy(gradient), expected, 1e-5)
        assert_same(cupy.asnumpy(out), expected[:half], 1e-5)


def check_moving_centers(cupy, no_waiting, samples, fine_classes):
    features, labels = batch(4, samples, fine_classes)
    centers = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS)).astype(np.float32)
    there, labels_there = on_device(cupy, features, labels)
    centers_there = cupy.asarray(centers)
    with no_waiting():
        center.forward(there, labels_there[:1], centers_there).move(centers_there, 0.3)
    center.forward(features, labels[:1], centers).move(centers, 0.3)
    assert_same(cupy.asnumpy(centers_there), centers, 1e-6)


def check_bilinear_pooling(cupy, no_waiting, count, signed_sqrt, l2_normalize):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(3, c, 6)).astype(np.float32) for c in (5, 4)[:count]]
    diff = rng.normal(size=(3, 5, 4 if count == 2 else 5)).astype(np.float32)
    there, diff_there = [cupy.asarray(values) for values in maps], cupy.asarray(diff)
    with no_waiting():
        pooled = bilinear.forward(there, signed_sqrt, l2_normalize)
        gradients = pooled.gradients(there, diff_there)
    expected = bilinear.forward(maps, signed_sqrt, l2_normalize)
    assert_same(cupy.asnumpy(pooled.descriptors), expected.descriptors, 1e-6)
    for actual, gradient in zip(gradients, expected.gradients(maps, diff), strict=True):
        assert_same(cupy.asnumpy(actual), gradient, 1e-5)


def check_memory(cupy, no_waiting):
    there, here = SampleMemory(7), SampleMemory(7)
    for seed, samples in enumerate([4, 6, 3, 12]):
        features, labels = batch(seed, samples)
        sent = on_device(cupy, features, labels)
        with no_waiting():
            kept, labels_there, gram = there.join(*sent)
        on_host = here.join(features, labels)
        for actual, expected in zip([kept, *labels_there], [on_host[0], *on_host[1]], strict=True):
            assert np.array_equal(cupy.asnumpy(actual), expected)
        assert_same(cupy.asnumpy(gram), on_host[2])
        here.keep()
        there.keep()


def losses_net(tmp_path, layer, **options):
    name, parameters, levels = LAYERS[layer]
    return make_net(
        tmp_path, name, parameters, levels=levels, diagnostics=True, loss_weight=2.0, **options
    )


def passes(net, sizes=(12, 12, 5, 20)):
    """Loss, diagnostics, gradient and parameters after each of several passes."""
    results = []
    rng = np.random.default_rng(0)
    tree = random_tree(rng, 2, 6)
    for samples in sizes:
        features = rng.normal(size=(samples, 4))
        labels = tree[rng.integers(6, size=samples)].T
        for name in ("features", "label_1", "label_2"):
            if name in net.blobs:
                net.blobs[name].reshape(samples, *list(net.blobs[name].shape)[1:])
        if "label_2" in net.blobs:
            net.blobs["label_2"].data[...] = labels[1]
        loss, gradient = run(net, features, labels[0])
        results.append(
            [
                np.array(loss),
                net.blobs["diagnostics"].data.copy(),
                gradient,
                *(blob.data.copy() for params in net.params.values() for blob in params),
            ]
        )
    return results


def pooling_outcome(tmp_path, bottoms):
    """Descriptors and the maps' gradients of a net of the bilinear pooling layer alone."""
    names = ["a", "b"][:bottoms]
    (tmp_path / "net.prototxt").write_text(
        "force_backward: true\n"
        + "".join(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 4 }} }} }}\n"
            for name in names
        )
        + f"""
        layer {{ name: "bilinear" type: "Python" top: "bilinear"
                 {" ".join(f'bottom: "{name}"' for name in names)}
                 python_param {{ module: "python_layers.bilinear_pooling"
                                 layer: "BilinearPoolingLayer" }} }}"""
    )
    rng = np.random.default_rng(0)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    for name in names:
        net.blobs[name].data[...] = rng.normal(size=(2, 3, 4, 4))
    net.forward()
    net.blobs["bilinear"].diff[...] = rng.normal(size=(2, 9))
    net.backward()
    return [net.blobs["bilinear"].data.copy(), *(net.blobs[n].diff.copy() for n in names)]


def assert_same_passes(actual, expected):
    for one_pass, on_host in zip(actual, expected, strict=True):
        for one, other in zip(one_pass, on_host, strict=True):
            assert one.any() and np.abs(one - other).max() <= 1e-5 * np.abs(other).max()
