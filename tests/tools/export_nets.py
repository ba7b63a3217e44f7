"""Trained nets for the tests of export: solvers, data sets and random weights of every backbone."""

import re
from contextlib import chdir
from pathlib import Path

import field_nets
import graft_nets
import nets_data
import numpy as np
import real_data

from data_prep.common import prototxt
from tools.nets import datasets, files, tables
from tools.pycaffe import caffe, caffe_pb2
from tools.recognition import trained

LEVELS, SIZES = ("plant", "genus"), (7, 3)
GOOGLENET = real_data.FOLDER / "weights/bvlc_googlenet.caffemodel"
SPREAD = 1.5  # standard deviation of a classifier's scores
# Layers of 4096 outputs have 64 here, and images are smaller where VGG-16 would take seconds each.
SMALLER = {"alexnet": None, "vgg16": 64, "vgg19": 64, "bcnn": 64, "bcnn2": 64}


def backbone(folder, name, variant="ours"):
    """(solver, weights) of a net of the tables, in the folder, with random heads.

    GoogLeNet has BVLC's weights where they are at hand.
    """
    net = tables.NETS[name]
    with chdir(folder):
        _data_set(net.stored)
        made = files.file_texts(
            datasets.built_dataset(Path("data"), net), net, "nets", name="mine", variants=(variant,)
        )
        files.write({Path("nets", file): _smaller(text, name, net) for file, text in made.items()})
    start = GOOGLENET if name == "googlenet" and GOOGLENET.is_file() else None
    return _with_weights(folder, f"nets/mine_{name}_{variant}_solver.prototxt", start)


def grafted(folder, text, variant="ours", *options):
    """(solver, weights) of a prototxt of field_nets or graft_nets, grafted."""
    with chdir(folder):
        _data_set(256)
        done = graft_nets.graft(
            text, "--data", "data", "--out", "nets", "--variant", variant, *options
        )
        assert done.returncode == 0, done.stderr
    return _with_weights(folder, f"nets/mine_mini_{variant}_solver.prototxt")


def _data_set(side):
    if not Path("data").exists():
        nets_data.build(Path("data"), "mine", LEVELS, SIZES, side, train=3, test=4)


def _smaller(text, name, net):
    if name in SMALLER:
        text = text.replace("num_output: 4096", "num_output: 64")
        text = re.sub(rf"crop_size: {net.crop}\b", f"crop_size: {SMALLER[name] or net.crop}", text)
    return text


def _with_weights(folder, solver, start=None):
    """The paths of the solver and of random weights whose probabilities are neither 0 nor 1."""
    with chdir(folder):
        path = folder / "random.caffemodel"
        path.write_bytes(caffe_pb2.NetParameter().SerializeToString())
        net = trained.read(solver, path)
        with prototxt.as_file(net.net) as file:
            found = caffe.Net(file, caffe.TEST)
        rng = np.random.default_rng(0)
        field_nets.fill(found, rng)
        if start:
            found.copy_from(str(start))
        shape = tuple(found.blobs["data"].shape)[1:]
        found.blobs["data"].reshape(4, *shape)
        pixels = rng.normal(0, 60 * net.preprocessing.scale, (4, 3, 8, 8))
        wide = pixels.repeat(-(-shape[1] // 8), axis=2).repeat(-(-shape[2] // 8), axis=3)
        for name in net.scores.values():
            found.blobs["data"].data[...] = wide[:, :, : shape[1], : shape[2]]
            found.forward()
            found.params[name][0].data[...] *= SPREAD / found.blobs[name].data.std(axis=1).mean()
        found.save(str(path))
    return folder / solver, path


def photographs():
    """Real photographs where they are at hand; () otherwise: the data set's noise is taken."""
    return sorted(real_data.FOLDER.glob("CUB_200_2011/images/00[1-3]*/*_0001_*.jpg"))[:3]
