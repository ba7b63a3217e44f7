"""Published networks that are not in tools/nets/tables.py, with the layer names of their weights.

Shapes and names only: CaffeNet's train_val (BVLC), ResNet-50's deploy file and MobileNet v1's
(Howard et al., in the Caffe version that ends with a convolution).
"""

import numpy as np
from caffe import NetSpec, layers as L, params as P

from tools.benchmarks.resnet import resnet50

__all__ = ["caffenet", "fill", "mobilenet", "resnet50"]

INPUT = 'name: "{name}"\ninput: "data"\ninput_dim: 1\ninput_dim: 3\n' + 2 * "input_dim: {side}\n"
DATA = """
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
        transform_param {{ mirror: {mirror} crop_size: {side} {transform} }}
        data_param {{ source: "imagenet/{split}_lmdb" batch_size: 50 backend: LMDB }} }}
"""
OUTPUTS = """
layer {{ name: "accuracy" type: "Accuracy" bottom: "{scores}" bottom: "label" top: "accuracy"
        include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{scores}" bottom: "label" top: "loss" }}
"""
# outputs and strides of MobileNet's 13 pairs of convolutions, by name
MOBILENET = {
    "conv2_1": (64, 1),
    "conv2_2": (128, 2),
    "conv3_1": (128, 1),
    "conv3_2": (256, 2),
    "conv4_1": (256, 1),
    "conv4_2": (512, 2),
    **{f"conv5_{i}": (512, 1) for i in range(1, 6)},
    "conv5_6": (1024, 2),
    "conv6": (1024, 1),
}


def data_layers(side, transform):
    """Data layers of a train_val file."""
    return "".join(
        DATA.format(
            phase=phase,
            side=side,
            transform=transform,
            split=split,
            mirror=str(phase == "TRAIN").lower(),
        )
        for phase, split in (("TRAIN", "train"), ("TEST", "val"))
    )


def _text(n):
    """The layers of a NetSpec but its input."""
    proto = n.to_proto()
    del proto.layer[0]
    return str(proto)


def _start(side):
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, side, side]))
    return n


def caffenet():
    """Prototxt of a train_val: dropout in place, a mean file, one layer for images and labels.

    fc6 and fc7 start uniform instead of normal: Caffe draws their 54 million weights at each start.
    """
    n = _start(227)

    def convolution(number, bottom, outputs, size, **more):
        n[f"conv{number}"] = L.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=size,
            weight_filler=dict(type="gaussian", std=0.01),
            **more,
        )
        n[f"relu{number}"] = L.ReLU(n[f"conv{number}"], in_place=True)
        return n[f"relu{number}"]

    def pool_and_norm(number, bottom):
        n[f"pool{number}"] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=2)
        n[f"norm{number}"] = L.LRN(n[f"pool{number}"], local_size=5, alpha=1e-4, beta=0.75)
        return n[f"norm{number}"]

    top = pool_and_norm(1, convolution(1, n.data, 96, 11, stride=4))
    top = pool_and_norm(2, convolution(2, top, 256, 5, pad=2, group=2))
    top = convolution(3, top, 384, 3, pad=1)
    top = convolution(4, top, 384, 3, pad=1, group=2)
    top = convolution(5, top, 256, 3, pad=1, group=2)
    top = n["pool5"] = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    for number in (6, 7):
        top = n[f"fc{number}"] = L.InnerProduct(
            top, num_output=4096, weight_filler=dict(type="xavier")
        )
        top = n[f"relu{number}"] = L.ReLU(top, in_place=True)
        top = n[f"drop{number}"] = L.Dropout(top, dropout_ratio=0.5, in_place=True)
    n["fc8"] = L.InnerProduct(top, num_output=1000, weight_filler=dict(type="gaussian", std=0.02))
    return (
        'name: "CaffeNet"\n'
        + data_layers(227, 'mean_file: "imagenet_mean.binaryproto"')
        + _text(n)
        + OUTPUTS.format(scores="fc8")
    )


def mobilenet():
    """Prototxt of a deploy file: group convolutions, statistics of the batch in training."""
    n = _start(224)

    def convolution(name, relu, bottom, outputs, size, stride, group=1):
        n[name] = L.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=size,
            stride=stride,
            pad=size // 2,
            group=group,
            bias_term=False,
            weight_filler=dict(type="msra"),
        )
        n[f"{name}/bn"] = L.BatchNorm(n[name], param=3 * [dict(lr_mult=0, decay_mult=0)])
        n[f"{name}/scale"] = L.Scale(n[f"{name}/bn"], in_place=True, bias_term=True)
        n[relu] = L.ReLU(n[f"{name}/scale"], in_place=True)
        return n[relu]

    top, inputs = convolution("conv1", "relu1", n.data, 32, 3, 2), 32
    for name, (outputs, stride) in MOBILENET.items():
        relu = f"relu{name.removeprefix('conv')}"
        top = convolution(f"{name}/dw", f"{relu}/dw", top, inputs, 3, stride, inputs)
        top, inputs = convolution(f"{name}/sep", f"{relu}/sep", top, outputs, 1, 1), outputs
    n.pool6 = L.Pooling(top, pool=P.Pooling.AVE, global_pooling=True)
    n.fc7 = L.Convolution(n.pool6, num_output=1000, kernel_size=1, weight_filler=dict(type="msra"))
    n.prob = L.Softmax(n.fc7)
    return INPUT.format(name="MOBILENET", side=224) + _text(n)


def fill(net, rng):
    """Fill a caffe.Net with random weights such that activations keep their size.

    Batch normalization gets the statistics 0 and 1; a scale that ends a residual branch is small.
    """
    kinds = dict(zip(net._layer_names, (layer.type for layer in net.layers)))
    for name, blobs in net.params.items():
        values = blobs[0].data
        if kinds[name] == "BatchNorm":
            values[...], blobs[1].data[...], blobs[2].data[...] = 0, 1, 1
        elif kinds[name] == "Scale":
            values[...] = 0.2 if name.endswith("2c") else 1
            blobs[1].data[...] = rng.uniform(-0.1, 0.1, blobs[1].data.shape)
        else:
            rng.standard_normal(dtype=np.float32, out=values)
            values *= np.sqrt(2 / values[0].size)
