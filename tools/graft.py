#!/usr/bin/env python3
"""Give a network of your own the paper's head: classifiers of every level, losses, solvers.

The network is any prototxt that BVLC Caffe reads, a train_val or a deploy file, of any age. What
hangs behind its feature (its classifier, losses, accuracies) is cut off; the layers before keep
their names, so that its trained weights still load by name. Written are one net for all variants,
a solver per variant and a deploy file, as those in prototxt/.
"""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffemodel
from tools.nets import cut, foreign, grafted, graph, tables
from tools.nets.datasets import built_dataset, restrict
from tools.nets.files import file_texts, write
from tools.nets.options import (
    add_data_options,
    add_run_options,
    check_boxes,
    file_name,
    positive,
    run_values,
)
from tools.pycaffe import TRAIN

EXAMPLES = """examples, from the repository's root:
  tools/graft.py --net ResNet-50-deploy.prototxt --list-features
  tools/graft.py --net ResNet-50-deploy.prototxt --levels 196,9 --out prototxt/mine \\
      --variant ours --weights weights/ResNet-50-model.caffemodel
  tools/graft.py --net mobilenet_deploy.prototxt --data data/mine --out prototxt/mine \\
      --mean 103.94,116.78,123.68 --scale 0.017
"""


def _colour(text):
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3):
        raise ValueError
    return values


_colour.__name__ = "colour B,G,R"


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--net",
        type=Path,
        required=True,
        metavar="FILE",
        help="prototxt of the network, train_val or deploy",
    )
    parser.add_argument(
        "--feature",
        metavar="BLOB",
        help="what the head and the large-margin loss "
        "read (default: what the last classifier reads)",
    )
    parser.add_argument(
        "--list-features",
        action="store_true",
        help="print the blobs to choose from, and write nothing",
    )
    parser.add_argument(
        "--map",
        choices=("pool", "flatten"),
        dest="how",
        help="how a feature of more than one position becomes a vector: averaged or joined",
    )
    parser.add_argument(
        "--cut-auxiliary",
        action="store_true",
        help="leave out auxiliary "
        "classifiers (default: keep them in training, with the fine labels)",
    )
    data = parser.add_argument_group("data set: a folder, or a name, or a known set of sizes")
    add_data_options(data)
    data.add_argument(
        "--levels",
        metavar="N,N,...",
        help="classes per level, fine to coarse, or "
        "names of levels: those of the label tree to use (default: all)",
    )
    pixels = parser.add_argument_group("images, where the prototxt doesn't say it")
    pixels.add_argument(
        "--crop", type=positive(int, "number above 0"), metavar="N", help="side of the input"
    )
    pixels.add_argument(
        "--mean",
        type=_colour,
        metavar="B,G,R",
        help="subtracted, 0..255 (default: ImageNet's; 0: nothing)",
    )
    pixels.add_argument(
        "--scale", type=positive(float, "number above 0"), help="times what is left (default: 1)"
    )
    run = parser.add_argument_group("what is written")
    add_run_options(run)
    run.add_argument(
        "--net-name", metavar="NAME", help="the network's in file names (default: the prototxt's)"
    )
    run.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="the network's caffemodel: named "
        "in the files and, if it is there, compared with the net",
    )
    options = parser.parse_args(arguments)
    if not options.list_features:
        if not (options.data or options.dataset or options.levels):
            parser.error("which data set? --data, --dataset or --levels")
        if not options.out:
            parser.error("--out is needed: the folder of the files")
    check_boxes(parser, options)
    return options


def _net_name(options, proto):
    """The network's name: as given, or the file's, or, where all files are called so, the net's."""
    if options.net_name is not None:
        return file_name(options.net_name, "--net-name")
    said = re.sub(
        r"[._-]*(train_val|trainval|train_test|train|deploy|test|val)$", "", options.net.stem
    )
    said = said or proto.name or options.net.resolve().parent.name
    return re.sub(r"[^\w.-]+", "_", said).strip(".-") or "net"


def _feature(options, nodes):
    """cut.Feature: the one asked for, or that of the last classifier."""
    if options.feature:
        return cut.find_feature(nodes, options.feature)
    classifier = cut.find_classifier(nodes)
    if classifier is None:
        raise UserError(
            f"{options.net} does not end with a fully connected layer or a 1 x 1 "
            "convolution: name a --feature (--list-features shows all)"
        )
    return cut.find_feature(nodes, nodes[classifier].layer.bottom[0])


def _images(options, nodes, feature):
    """grafted.Images with a crop, as the prototxt or the options say."""
    images = grafted.find_images(nodes, cut.image_of(nodes, feature))
    transform = dict(images.transform)
    if options.mean:
        transform.pop("mean_value", None)
        if any(options.mean):
            transform["mean_value"] = options.mean
    if options.scale:
        transform["scale"] = options.scale
    crop = options.crop or images.crop
    if not crop:
        raise UserError(
            f"{options.net} doesn't say how large its images are: add --crop, such as --crop 224"
        )
    return replace(images, crop=crop, transform=transform)


def _by_sizes(sizes):
    """The tables' data set with these classes per level; UserError if it is none."""
    for dataset in tables.DATASETS.values():
        if dataset.sizes == sizes:
            return dataset
    known = "; ".join(
        f"{','.join(map(str, dataset.sizes))} ({name})" for name, dataset in tables.DATASETS.items()
    )
    raise UserError(
        f"no known data set has {' and '.join(map(str, sizes))} classes (known: "
        f"{known}): build yours with data_prep/build_lmdb.py and give its folder with "
        "--data"
    )


def _levels(dataset, wanted):
    """The data set with the levels wanted: classes per level, or what datasets.restrict reads."""
    sizes = _sizes(wanted)
    if not sizes or (len(sizes) == 1 and sizes[0] <= len(dataset.sizes)):
        return restrict(dataset, wanted)
    if not set(sizes) <= set(dataset.sizes):
        raise UserError(
            f"--levels {wanted}: the levels of {dataset.title} have "
            f"{', '.join(map(str, dataset.sizes))} classes"
        )
    return restrict(
        dataset,
        ",".join(name for name, size in zip(dataset.levels, dataset.sizes) if size in sizes),
    )


def _sizes(wanted):
    """Classes per level as a tuple; () if the text is none of numbers."""
    parts = (wanted or "").split(",")
    return tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else ()


def _dataset(options, net):
    if not (options.data or options.dataset):
        sizes = _sizes(options.levels)
        if not sizes:
            raise UserError(
                f"--levels {options.levels}: without --data or --dataset, classes per "
                "level are needed, such as 196,9"
            )
        return _by_sizes(sizes)
    dataset = built_dataset(options.data, net) if options.data else tables.DATASETS[options.dataset]
    return dataset if options.levels is None else _levels(dataset, options.levels)


def _say(title, text):
    print(f"{title:12} {text}")


def _few(names, most=6):
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _list(options, nodes):
    """Print the blobs that depend on the images alone, with their shapes and layers."""
    try:
        feature = _feature(options, nodes)
    except UserError:
        if options.feature:
            raise
        feature = cut.find_feature(nodes, nodes[-1].layer.bottom[0])
        chosen = None
    else:
        chosen = feature.blob
    images = _images(options, nodes, feature)
    layers = grafted.image_layers(nodes, images.blob)
    shapes, _ = foreign.shapes(layers, {images.blob: [1, 3, images.crop, images.crop]}, options.net)
    makers = {}
    for layer in layers:
        for top in layer.top:
            makers.setdefault(top, []).append(f"{layer.name} ({layer.type})")
    width = max(len(blob) for blob in makers)
    print(f"  {'blob':{width}}  {'shape':16}  written by")
    for blob, names in makers.items():
        shape = " x ".join(map(str, shapes[blob][1:])) or "1"
        print(f"{'*' if blob == chosen else ' '} {blob:{width}}  {shape:16}  {_few(names)}")
    if chosen:
        print("* is taken if --feature is left out")


def _tell_statistics(backbone):
    """Say which statistics BatchNorm layers use in training."""
    layers = [
        layer
        for layer in backbone.layers
        if layer.type == "BatchNorm" and (not layer.include or layer.include[0].phase == TRAIN)
    ]
    stored = sum(layer.batch_norm_param.use_global_stats for layer in layers)
    if layers and stored:
        _say(
            "BatchNorm",
            f"{stored} of {len(layers)} layers use the stored statistics in training "
            "too, as the prototxt says (use_global_stats: true)",
        )
    if layers and stored < len(layers):
        _say(
            "BatchNorm",
            f"{len(layers) - stored} of {len(layers)} layers use those of the batch "
            "in training, Caffe's default: small batches are noisy",
        )


def _tell_weights(path, net):
    """Say which layers of the backbone a caffemodel has; UserError if it is another network's."""
    shapes = net.backbone.weights
    if not path:
        _say("weights", "give the network's caffemodel to `caffe train -weights`")
        return
    if not path.is_file():
        _say("weights", f"{path} is not there yet: not compared")
        return
    missing = caffemodel.compare(path, shapes, net.name)
    if len(missing) == len(shapes):
        raise UserError(
            f"{path} has none of the layers of {net.name}, such as {_few(missing, 2)}: "
            "it is another network's"
        )
    _say(
        "weights",
        f"{path} has {len(shapes) - len(missing)} of the {len(shapes)} layers with "
        "weights" + (f"; {_few(missing)} start at random" if missing else ""),
    )


def _tell(options, nodes, net, images):
    """Say what was found, kept and cut."""
    backbone, shape = net.backbone, " x ".join(map(str, net.backbone.shape))
    why = ""
    if not options.feature:
        classifier = nodes[cut.find_classifier(nodes)].layer.name
        why = f", what {classifier} reads; --feature names another"
    _say("feature", f"{net.feature} ({shape}){why}")
    for blob in grafted.activations(nodes, net.feature):
        _say("", f"before ReLU: the paper's is behind it, here --feature {blob}")
    _say(
        "dropout",
        f"{net.dropped}, behind the feature"
        if net.dropped != net.feature
        else "none behind the feature",
    )
    mean = net.transform.get("mean_value")
    _say(
        "images",
        f"{images.blob}, 3 x {net.crop} x {net.crop}, "
        + (f"minus {', '.join(f'{value:g}' for value in mean)}" if mean else "no mean")
        + (f", times {net.transform['scale']:g}" if "scale" in net.transform else "")
        + (
            ""
            if images.told or options.mean
            else " (ImageNet's: the prototxt names none, or a file that is not here)"
        ),
    )
    _say("cut off", _few(backbone.left_out) or "nothing")
    if backbone.auxiliary:
        _say("auxiliary", f"{', '.join(backbone.auxiliary)}: in training, of the fine classes")
    if backbone.renamed:
        _say("renamed", ", ".join(f"{old} to {new}" for old, new in backbone.renamed.items()))
    _tell_statistics(backbone)


def main():
    options = _parse(sys.argv[1:])
    proto = foreign.read(options.net)
    nodes = graph.nodes(proto)
    if options.list_features:
        return _list(options, nodes)
    name = _net_name(options, proto)
    feature = _feature(options, nodes)
    images = _images(options, nodes, feature)
    weights = options.weights or Path("weights", f"{name}.caffemodel")
    net = grafted.graft(
        nodes,
        feature,
        images,
        name,
        weights.as_posix(),
        how=options.how,
        auxiliary=not options.cut_auxiliary,
    )
    dataset = _dataset(options, net)
    _tell(options, nodes, net, images)
    _tell_weights(options.weights, net)
    texts = file_texts(dataset, net, options.out.as_posix(), **run_values(options, dataset))
    write({options.out / name: text for name, text in texts.items()})
    print(f"wrote {len(texts)} files into {options.out}/")


if __name__ == "__main__":
    command(main)
