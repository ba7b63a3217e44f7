"""Compares the shapes in a caffemodel with a net's before Caffe reads it and aborts."""

from google.protobuf.message import DecodeError

from data_prep.common import files
from data_prep.common.errors import UserError
from tools import snapshots


def shapes(path):
    """{layer: [shape of each blob]} of a caffemodel; before 2015 blobs had 4 dimensions."""
    from tools.pycaffe import caffe_pb2

    try:
        model = caffe_pb2.NetParameter.FromString(files.existing(path, "caffemodel").read_bytes())
    except DecodeError:
        raise UserError(
            f"{path} is not a caffemodel, or is truncated (solver states and HDF5 "
            "snapshots are not read)"
        ) from None
    return {
        layer.name: [
            list(blob.shape.dim)
            if blob.HasField("shape")
            else [blob.num, blob.channels, blob.height, blob.width]
            for blob in layer.blobs
        ]
        for layer in [*model.layer, *model.layers]
    }


def is_hdf5(path):
    """Whether a file of weights is HDF5, by its content, as Caffe itself decides."""
    with open(path, "rb") as file:
        return file.read(len(snapshots.HDF5_SIGNATURE)) == snapshots.HDF5_SIGNATURE


def _same(have, need):
    """Whether two shapes agree; the old format pads them with leading ones."""
    return have == need or (len(have) == 4 and have == [1] * (4 - len(need)) + need)


def compare(path, needed, what):
    """Names of the layers missing in a caffemodel, which Caffe would leave at random values.

    needed: {layer: [shape of each blob]}. what: the net's name in messages. Raises UserError if
    shapes differ.
    """
    have = shapes(path)
    missing = [name for name in needed if not have.get(name)]
    for name in (name for name in needed if name not in missing):
        need = [list(shape) for shape in needed[name]]
        if len(need) != len(have[name]) or not all(map(_same, have[name], need)):
            raise UserError(
                f"{path} does not fit {what}: {name} has the shapes {have[name]} in the file "
                f"and {need} in the net (another data set or network?)"
            )
    return missing
