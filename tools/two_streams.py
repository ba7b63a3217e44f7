#!/usr/bin/env python3
"""Write the weights of a Bilinear CNN of two networks: a caffemodel's layers, and a copy of each.

The second network's layers have the names of the first's after `second/`, as in nets of
tools/make_prototxt.py --net bcnn2. Only the convolutions are copied: the pooling takes the place of
the other layers.

Example, from the repository's root:
    tools/two_streams.py --weights weights/VGG_ILSVRC_16_layers.caffemodel \\
        --out weights/VGG_ILSVRC_16_two_streams.caffemodel
"""

import argparse
from pathlib import Path

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffemodel
from tools.nets import backbones
from tools.pycaffe import NetSpec, caffe_pb2, layers as L

WEIGHTS = Path("weights/VGG_ILSVRC_16_layers.caffemodel")


def convolutions():
    """Names of the layers with weights in the first of the two networks."""
    spec = NetSpec()
    spec.data = L.Input(shape=dict(dim=[1, 3, 448, 448]))
    backbones.bcnn(spec, 2, 448)
    return [layer.name for layer in spec.to_proto().layer if layer.type == "Convolution"]


def two_streams(path):
    """NetParameter with the weights of both networks; UserError where the file lacks a layer."""
    names = convolutions()
    shapes = caffemodel.shapes(path)
    if missing := [name for name in names if not shapes.get(name)]:
        raise UserError(f"{path} has no weights of {missing[0]}: give those of VGG-16")
    model = caffe_pb2.NetParameter.FromString(path.read_bytes())
    blobs = {layer.name: layer.blobs for layer in (*model.layer, *model.layers)}
    both = caffe_pb2.NetParameter(name="two streams")
    for stream in ("", backbones.SECOND_STREAM):
        for name in names:
            layer = both.layer.add(name=stream + name, type="Convolution")
            layer.blobs.extend(blobs[name])
    return both


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="of VGG-16 (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="caffemodel to write")
    args = parser.parse_args()
    files.existing(args.weights, "caffemodel")
    if args.out.exists():
        raise UserError(f"{args.out} exists: remove it, or choose another --out")
    both = two_streams(args.weights)
    files.write_whole(args.out, both.SerializeToString(deterministic=True))
    print(f"wrote {args.out}: {len(both.layer)} layers")


if __name__ == "__main__":
    command(main)
