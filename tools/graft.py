#!/usr/bin/env python3
"""Add the paper's head to your own network: classifiers of every level, losses, solvers.

The network is a train_val or deploy prototxt in any format that BVLC Caffe reads. The layers after
the feature (classifier, losses, accuracies) are removed; the layers before it keep their names, so
that trained weights still load by name. Like prototxt/, the output has one net for all variants, a
solver per variant and a deploy file.

Prototxts of Caffe forks (NVIDIA's, Intel's, SSD's, SENet's ...) may use fields and layers that BVLC
Caffe lacks. Those after the feature are removed. Those before it are reported with their lines;
--translate FILE replaces those with an exact equivalent in BVLC Caffe.
"""

import argparse
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.common.files import write_whole
from tools import caffemodel
from tools.nets import cut, foreign, grafted, graph, sources, tables
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
  tools/graft.py --net SE-ResNet-50.prototxt --data data/mine --out prototxt/mine \\
      --translate SE-ResNet-50_bvlc.prototxt
"""


MOST_ROWS = 8  # most rows of one kind in the summary


def _color(text):
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise ValueError
    return values


_color.__name__ = "color B,G,R"


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--net",
        type=Path,
        required=True,
        metavar="FILE",
        help="train_val or deploy prototxt of the network",
    )
    parser.add_argument(
        "--feature",
        metavar="BLOB",
        help="blob that the head and the large-margin loss read (default: the one that the last "
        "classifier reads)",
    )
    parser.add_argument(
        "--list-features",
        action="store_true",
        help="print the blobs that --feature can name, and stop",
    )
    parser.add_argument(
        "--map",
        choices=("pool", "flatten"),
        dest="how",
        help="how to turn a feature map into a vector: pool averages over its positions, flatten "
        "concatenates them (default, without --feature: as the net's own classifier does)",
    )
    parser.add_argument(
        "--cut-auxiliary",
        action="store_true",
        help="remove auxiliary classifiers (default: train them on the fine labels)",
    )
    parser.add_argument(
        "--translate",
        type=Path,
        metavar="FILE",
        help="translate fields and layers of Caffe forks that have an exact equivalent, and write "
        "the translated prototxt to FILE",
    )
    data = parser.add_argument_group("data set (a folder, a name, or numbers of classes)")
    add_data_options(data)
    data.add_argument(
        "--levels",
        metavar="N,N,...",
        help="levels of the label tree to use, fine to coarse, given by their numbers of classes "
        "or their names (default: all)",
    )
    pixels = parser.add_argument_group("images (default: as the prototxt states)")
    pixels.add_argument(
        "--crop",
        type=positive(int, "number above 0"),
        metavar="N",
        help="side of the square images that the net reads, in pixels",
    )
    pixels.add_argument(
        "--mean",
        type=_color,
        metavar="B,G,R",
        help="mean color to subtract, 0..255; 0 subtracts nothing (default: as in the prototxt, "
        "else ImageNet's)",
    )
    pixels.add_argument(
        "--scale",
        type=positive(float, "number above 0"),
        help="factor that multiplies pixels after the subtraction (default: as in the prototxt, "
        "else 1)",
    )
    run = parser.add_argument_group("files to write")
    add_run_options(run)
    run.add_argument(
        "--net-name",
        metavar="NAME",
        help="name of the network in file names (default: from the prototxt's file name)",
    )
    run.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="trained weights of the network, a caffemodel: named in the files and, if the file "
        "exists, compared with the net",
    )
    options = parser.parse_args(arguments)
    if not options.list_features:
        if not (options.data or options.dataset or options.levels):
            parser.error("name a data set: --data, --dataset or --levels")
        if not options.out:
            parser.error("--out is required: the folder for the files")
    check_boxes(parser, options)
    return options


def _net_name(options, proto):
    """The network's name: as given, or the file's, or, for a file such as deploy, the net's."""
    if options.net_name is not None:
        return file_name(options.net_name, "--net-name")
    stem = re.sub(
        r"[._-]*(train_val|trainval|train_test|train|deploy|test|val)$", "", options.net.stem
    )
    name = stem or proto.name or options.net.resolve().parent.name
    return re.sub(r"[^\w.-]+", "_", name).strip(".-") or "net"


def _feature(options, nodes):
    """The requested cut.Feature, or that of the last classifier."""
    if options.feature:
        return cut.find_feature(nodes, options.feature)
    classifier = cut.find_classifier(nodes)
    if classifier is None:
        raise UserError(
            f"{options.net}: {cut.why_no_classifier(nodes)}: name a --feature (--list-features "
            "shows all)"
        )
    layer = nodes[classifier].layer
    if any(node.source and layer.bottom[0] in node.layer.top for node in nodes):
        raise UserError(
            f"{options.net}: its last classifier, {layer.name}, reads the input {layer.bottom[0]}, "
            "so the net has no feature"
        )
    return cut.find_feature(nodes, layer.bottom[0])


def _images(options, nodes, feature, unknown):
    """sources.Images with a crop, as the prototxt or the options state."""
    blob = cut.image_of(nodes, feature)
    images = sources.find_images(
        nodes,
        blob,
        unknown,
        crop=options.crop or 0,
        mean=options.mean,
        scale=options.scale,
    )
    if not images.crop:
        raise UserError(
            f"{options.net}: {sources.why_no_size(nodes, blob)}: add --crop, such as --crop 224"
        )
    return images


def _by_sizes(sizes):
    """The tables' data set with these classes per level; raises UserError if none matches."""
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
    """The data set with some of its levels. wanted: classes per level, or as datasets.restrict."""
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
    """Classes per level as a tuple; () if the text is not a list of numbers."""
    parts = (wanted or "").split(",")
    numbers = all(part.strip().isdecimal() and len(part) < 10 for part in parts)
    return tuple(map(int, parts)) if numbers else ()


def _dataset(options, net):
    if not (options.data or options.dataset):
        sizes = _sizes(options.levels)
        if not sizes:
            raise UserError(
                f"--levels {options.levels}: without --data or --dataset, classes per "
                "level are needed, such as 196,9"
            )
        return _by_sizes(sizes)
    dataset = (
        built_dataset(options.data, net, options.test_split)
        if options.data
        else tables.DATASETS[options.dataset]
    )
    return dataset if options.levels is None else _levels(dataset, options.levels)


def _print_row(title, text):
    print(f"{title:12} {text}")


def _few(names, most=6):
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _some_feature(options, nodes):
    """cut.Feature of the first blob that depends on images in both phases."""
    reason = UserError(f"{options.net} has no layer that writes a blob")
    for node in nodes:
        for blob in () if node.source else node.layer.top[:1]:
            try:
                feature = cut.find_feature(nodes, blob)
                cut.image_of(nodes, feature)
                return feature
            except UserError as error:
                reason = error
    raise reason


def _list(options, read, nodes):
    """Print the blobs that depend on the images alone, with their shapes and layers."""
    if options.feature or cut.find_classifier(nodes) is not None:
        feature = _feature(options, nodes)
        chosen = feature.blob
    else:
        feature, chosen = _some_feature(options, nodes), None
    images = _images(options, nodes, feature, read.unknown)
    layers = grafted.image_layers(nodes, images.blob, read.unknown)
    shapes, _ = foreign.shapes(layers, {images.blob: [1, 3, images.crop, images.crop]}, options.net)
    makers = {}
    for layer in layers:
        for top in layer.top:
            makers.setdefault(top, []).append(f"{layer.name} ({layer.type})")
    width = max(map(len, makers), default=0)
    print(f"  {'blob':{width}}  {'shape':16}  written by")
    for blob, names in makers.items():
        shape = " x ".join(map(str, shapes[blob][1:])) or "1"
        print(f"{'*' if blob == chosen else ' '} {blob:{width}}  {shape:16}  {_few(names)}")
    if chosen in makers:
        print("* is used if --feature is not given")
    _print_unknown(read, {layer.name for layer in layers})


def _print_statistics(backbone):
    """Print which statistics the BatchNorm layers use in training."""
    layers = [
        layer
        for layer in backbone.layers
        if layer.type == "BatchNorm" and (not layer.include or layer.include[0].phase == TRAIN)
    ]
    stored = sum(layer.batch_norm_param.use_global_stats for layer in layers)
    if layers and stored:
        _print_row(
            "BatchNorm",
            f"{stored} of {len(layers)} layers use the stored statistics in training "
            "too, as the prototxt states (use_global_stats: true)",
        )
    if layers and stored < len(layers):
        _print_row(
            "BatchNorm",
            f"{len(layers) - stored} of {len(layers)} layers use those of the batch "
            "in training, Caffe's default: small batches are noisy",
        )


def _print_weights(path, net):
    """Print which layers of the backbone a caffemodel has; raises UserError if it has none."""
    shapes = net.backbone.weights
    if not path:
        _print_row("weights", "give the network's caffemodel to `caffe train -weights`")
        return
    if not path.is_file():
        _print_row("weights", f"{path} not found, so it is not compared with the net")
        return
    missing = caffemodel.compare(path, shapes, net.name)
    if shapes and len(missing) == len(shapes):
        raise UserError(
            f"{path} has none of the layers of {net.name}, such as {_few(missing, 2)}: "
            "it belongs to another network"
        )
    _print_row(
        "weights",
        f"{path} has {len(shapes) - len(missing)} of the {len(shapes)} layers with "
        "weights" + (f"; {_few(missing)} start at random" if missing else ""),
    )


def _print_unknown(read, kept):
    """Print fields that this Caffe does not read in removed layers, and those that it ignores."""
    rows = [str(replace(place, advice="")) for place in read.unknown if place.layer not in kept]
    rows += [f"{ignored}: Caffe ignores it" for ignored in read.ignored]
    for row in rows[:MOST_ROWS]:
        _print_row("not read", row)
    if len(rows) > MOST_ROWS:
        _print_row(
            "not read", f"and {len(rows) - MOST_ROWS} more places, all in layers that are removed"
        )


def _print_stages(proto):
    chosen = graph.stages(proto)
    if any(chosen.values()):
        named = [
            f"{' '.join(chosen[phase]) or 'none'} in {where}"
            for phase, where in zip(graph.PHASES, ("training", "tests"))
        ]
        _print_row("stages", f"{', '.join(named)}: with them each layer finds what it reads")


def _print_summary(options, read, nodes, feature, net, images):
    """Print what was found, kept and removed."""
    backbone, shape = net.backbone, " x ".join(map(str, net.backbone.shape))
    why = ""
    if not options.feature:
        classifier = nodes[cut.find_classifier(nodes)].layer.name
        why = f", what {classifier} reads; --feature names another"
    if net.feature in (cut.POOLED, cut.FLAT) and not options.how:
        why = (
            f": {feature.blob} "
            + (
                "averaged over its positions, as the net does with its scores"
                if net.feature == cut.POOLED
                else "with its positions joined, as its classifier reads them"
            )
            + why
        )
    _print_row("feature", f"{net.feature} ({shape}){why}")
    for blob in grafted.activations(nodes, net.feature):
        _print_row("", f"before ReLU: the paper's is after it, here --feature {blob}")
    _print_row(
        "dropout",
        f"{net.dropped}, after the feature"
        if net.dropped != net.feature
        else "none after the feature",
    )
    mean = net.transform.get("mean_value")
    _print_row(
        "images",
        f"{images.blob}, 3 x {net.crop} x {net.crop}, "
        + (f"minus {', '.join(f'{value:g}' for value in mean)}" if mean else "no mean")
        + (f", times {net.transform['scale']:g}" if "scale" in net.transform else "")
        + ("" if options.mean else f" ({images.said})"),
    )
    _print_stages(read.net)
    _print_row("removed", _few(backbone.left_out) or "nothing")
    if backbone.auxiliary:
        _print_row(
            "auxiliary", f"{', '.join(backbone.auxiliary)}: in training, of the fine classes"
        )
    if backbone.renamed:
        _print_row("renamed", ", ".join(f"{old} to {new}" for old, new in backbone.renamed.items()))
    _print_statistics(backbone)
    _print_unknown(read, ())


def _translated(options, read):
    """{path: text} of the translated net, {} if nothing was translated.

    Raises UserError if the file exists with other content.
    """
    path = options.translate
    if path is None:
        return {}
    if read.translated is None:
        _print_row("translated", f"nothing: {path} is not written")
        return {}
    exists = path.is_symlink() or path.exists()
    if exists and not (path.is_file() and path.read_bytes() == read.translated.encode()):
        raise UserError(f"{path} exists and is not replaced: give --translate another name")
    return {path: read.translated}


def _write(translated, texts):
    for path, text in translated.items():  # _translated has checked what may be replaced
        write_whole(path, text)
    write(texts)
    for path in translated:
        print(f"wrote {path}, the net as this Caffe reads it")


def main():
    options = _parse(sys.argv[1:])
    read = foreign.read(options.net, translate=options.translate is not None)
    nodes = graph.nodes(read.net)
    translated = _translated(options, read)
    if options.list_features:
        _list(options, read, nodes)
        _write(translated, {})
        return
    name = _net_name(options, read.net)
    feature = _feature(options, nodes)
    grafted.check_known(read, nodes, feature)
    images = _images(options, nodes, feature, read.unknown)
    weights = options.weights or Path("weights", f"{name}.caffemodel")
    net = grafted.graft(
        read,
        nodes,
        feature,
        images,
        name,
        weights.as_posix(),
        how=options.how or (None if options.feature else cut.map_of(nodes)),
        auxiliary=not options.cut_auxiliary,
    )
    dataset = _dataset(options, net)
    _print_summary(options, read, nodes, feature, net, images)
    _print_weights(options.weights, net)
    texts = file_texts(dataset, net, options.out.as_posix(), **run_values(options, dataset))
    _write(translated, {options.out / name: text for name, text in texts.items()})
    print(f"wrote {len(texts)} files into {options.out}/")


if __name__ == "__main__":
    command(main)
