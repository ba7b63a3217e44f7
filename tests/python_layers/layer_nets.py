"""Caffe nets of one metric loss: blobs features, label_1 .. label_h, loss."""

import json

import caffe
import numpy as np
from batches import random_batch


def prototxt(
    layer,
    parameters,
    samples=12,
    features="dim: 4",
    loss_weight=1.0,
    diagnostics=False,
    extra="",
    labels="",
    force_backward=True,
    levels=1,
    package="python_layers.",
):
    """The net's text; layer: "<module of the package>.<class>", extra: more of its fields.

    parameters: of param_str, or its text.
    """
    param_str = parameters if isinstance(parameters, str) else json.dumps(parameters)
    module, name = layer.split(".")
    label_names = [f"label_{level}" for level in range(1, levels + 1)]
    bottoms = " ".join(f'bottom: "{label}"' for label in label_names)
    tops = f'top: "loss" loss_weight: {loss_weight} '
    if diagnostics:
        tops += 'top: "diagnostics" loss_weight: 0'
    return (
        f"force_backward: {str(force_backward).lower()}\n"
        + "\n".join(
            f'layer {{ name: "{blob}" type: "Input" top: "{blob}" '
            f"input_param {{ shape {{ dim: {samples} {shape} }} }} }}"
            for blob, shape in [("features", features), *zip(label_names, levels * [labels])]
        )
        + f"""
        layer {{ name: "metric" type: "Python" bottom: "features" {bottoms} {tops} {extra}
                 python_param {{ module: "{package}{module}" layer: "{name}"
                                 param_str: {json.dumps(param_str)} }} }}"""
    )


def make_net(tmp_path, layer, parameters, phase=caffe.TRAIN, **options):
    path = tmp_path / "net.prototxt"
    path.write_text(prototxt(layer, parameters, **options))
    return caffe.Net(str(path), phase)


def fill(net, features, labels):
    for name, values in (("features", features), ("label_1", labels)):
        net.blobs[name].data[...] = values.reshape(net.blobs[name].data.shape)


def run(net, features, labels):
    """Forward and backward: (loss, gradient n x d)."""
    fill(net, features, labels)
    net.blobs["label_1"].diff[...] = 7  # must be overwritten by zero
    loss = float(net.forward()["loss"][0])
    net.backward()
    assert not net.blobs["label_1"].diff.any()
    return loss, net.blobs["features"].diff.reshape(len(features), -1).copy()


CLASSES = 4
METRIC_LAYERS = {  # name: (layer, parameters, levels)
    "glm": ("glm_loss.GLMLossLayer", {"margins": [3, 3]}, 2),
    "glm-sphere": ("glm_loss.GLMLossLayer", {"normalize": True}, 2),
    "glm-memory": ("glm_loss.GLMLossLayer", {"memory": 20, "margins": [3, 3]}, 2),
    "contrastive": ("contrastive_loss.ContrastiveLossLayer", {"margin": 3}, 1),
    "contrastive-sphere": ("contrastive_loss.ContrastiveLossLayer", {"normalize": True}, 1),
    "triplet": ("triplet_loss.TripletLossLayer", {"normalize": False, "margin": 3}, 1),
    "triplet-sphere": ("triplet_loss.TripletLossLayer", {}, 1),
    "minmax": ("minmax_loss.MinMaxLossLayer", {"normalize": False, "k2_per": "sample"}, 1),
    "minmax-sphere": ("minmax_loss.MinMaxLossLayer", {}, 1),
    "contrastive-memory": ("contrastive_loss.ContrastiveLossLayer", {"memory": 20}, 1),
    "triplet-memory": ("triplet_loss.TripletLossLayer", {"memory": 20}, 1),
    "minmax-memory": ("minmax_loss.MinMaxLossLayer", {"memory": 20}, 1),
    "gtl": ("gtl_loss.GTLLossLayer", {"margins": [4, 2], "normalize": False}, 2),
    "gtl-sphere": ("gtl_loss.GTLLossLayer", {"mining": "all", "average": "active"}, 2),
    "gtl-memory": ("gtl_loss.GTLLossLayer", {"memory": 20, "scale": 2}, 2),
    "center": ("center_loss.CenterLossLayer", {"num_classes": CLASSES}, 1),
}


def metric_net(tmp_path, name, **options):
    layer, parameters, levels = METRIC_LAYERS[name]
    return make_net(tmp_path, layer, parameters, levels=levels, diagnostics=True, **options)


def metric_batch(seed):
    features, (fine,), _ = random_batch(seed, 1, 12, CLASSES, dimensions=4)
    return features, [fine.astype(np.float32), (fine // 2).astype(np.float32)]


def metric_step(net, features, labels):
    """Forward and backward: everything that a layer hands on or keeps."""
    net.blobs["features"].data[...] = features
    for level, values in enumerate(labels, 1):
        if f"label_{level}" in net.blobs:
            net.blobs[f"label_{level}"].data[...] = values
    net.forward()
    net.backward()
    kept = [blob.data.copy() for blobs in net.params.values() for blob in blobs]
    tops = [net.blobs[top].data.copy() for top in ("loss", "diagnostics")]
    return [*tops, net.blobs["features"].diff.copy(), *kept]
