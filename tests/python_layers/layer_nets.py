"""Caffe nets of one metric loss: blobs features, label_1 .. label_h, loss."""

import json

import caffe


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
    """The net's text; layer: "<module of the package>.<class>", extra: more of its fields."""
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
                                 param_str: {json.dumps(json.dumps(parameters))} }} }}"""
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
    net.blobs["label_1"].diff[...] = 7  # a loss that has nothing to say about labels must say so
    loss = float(net.forward()["loss"][0])
    net.backward()
    assert not net.blobs["label_1"].diff.any()
    return loss, net.blobs["features"].diff.reshape(len(features), -1).copy()
