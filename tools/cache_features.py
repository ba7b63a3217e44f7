#!/usr/bin/env python3
"""Compute a net's features of a data set once, so that heads train on them in seconds.

The net is that of a solver, up to the feature that fc8_fine and the metric losses read. Training
images give the features of up to ten crops each, Caffe's oversampling: the center and the corners,
and the same mirrored where the training mirrors images. Each of them is a training record; the n-th
pass over the images has the n-th crop of each, in another order. Validation and test images give
that of the center. The result is a data set: tools/make_prototxt.py --data FOLDER --net embedding
writes nets that learn an embedding, classifiers and losses on it.

--shuffle-parents makes a control for what a label tree adds: the same features and fine classes,
below random parents of the same numbers of children. Only fine figures compare with the others.

An interrupted run resumes with the same command, to the same result.

Examples, from the repository's root:
    tools/make_prototxt.py --data data/mine --net googlenet --out prototxt/mine
    tools/cache_features.py --solver prototxt/mine/mine_googlenet_sm_solver.prototxt \\
        --weights weights/bvlc_googlenet.caffemodel --out data/mine_googlenet
    tools/cache_features.py --reorder data/mine_googlenet --order hierarchical \\
        --out data/mine_googlenet_ordered
    tools/cache_features.py --reorder data/mine_googlenet --shuffle-parents 1 \\
        --out data/mine_googlenet_shuffled
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep import builder, control, feature_set, images, lmdb_io, manifest as manifests, order
from data_prep.batches import Plan
from data_prep.common import files, progress
from data_prep.common.arguments import within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.feature_rows import RowFile
from data_prep.feature_set import Image
from data_prep.label_tree import Hierarchy
from data_prep.manifest import Features, Level, Wanted
from data_prep.place import Place
from data_prep.records import read_listing

MOST = 10  # crops of an image
BATCH = 10  # crops at a time
# With --order hierarchical: option, default, smallest value, meaning.
BATCHES = (
    ("groups", 8, 1, "groups of siblings per batch"),
    ("classes", 32, 2, "classes per batch"),
    ("images", 4, 2, "different images per class in a batch"),
)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--solver", type=Path, help="solver whose net computes the features")
    source.add_argument(
        "--reorder",
        type=Path,
        metavar="FOLDER",
        help="write the features of this folder, which this command made, in another order or with "
        "another tree",
    )
    control.add_argument(parser, "with --reorder, ")
    parser.add_argument("--weights", type=Path, help="caffemodel of the net (with --solver)")
    parser.add_argument("--blob", help="blob to keep (default: the feature)")
    parser.add_argument(
        "--crops",
        type=within(int, 1, MOST),
        metavar="N",
        help="crops per training image: 1, the center; 2, with its mirror image; ... "
        f"(default: all, {MOST}, or {MOST // 2} without mirror images)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--order",
        choices=order.ORDERS,
        default="shuffled",
        help="order of the training records, as of data_prep/build_lmdb.py; listed: that of the "
        "data set (default: %(default)s)",
    )
    for option, default, least, meaning in BATCHES:
        parser.add_argument(
            f"--{option}",
            type=within(int, least, 100_000),
            metavar=option[0].upper(),
            help=f"with --order hierarchical, {meaning} (default: {default})",
        )
    parser.add_argument(
        "--seed",
        type=within(int, -(10**9), 10**9),
        default=0,
        help="seed of the order (default: 0)",
    )
    args = parser.parse_args()
    if args.solver and not args.weights:
        parser.error("--solver needs --weights")
    if args.reorder and (args.weights or args.blob or args.crops):
        parser.error("--reorder takes the features as they are: no --weights, --blob or --crops")
    if args.shuffle_parents is not None and not args.reorder:
        parser.error("--shuffle-parents needs --reorder")
    given = [option for option, *_ in BATCHES if getattr(args, option) is not None]
    if given and args.order != "hierarchical":
        parser.error(f"--{given[0]} needs --order hierarchical")
    args.batches = None
    if args.order == "hierarchical":
        args.batches = {name: getattr(args, name) or default for name, default, *_ in BATCHES}
    return args


def with_order(options, args, crops):
    """BuildOptions with the order that is asked for. crops: number per training image."""
    batches = args.batches and Plan(**args.batches, epochs=crops)
    return replace(options, order=args.order, seed=args.seed, batches=batches)


def wanted_of(args, net, source, crops):
    """manifest.Wanted of the features of a data set, whose Manifest is `source`."""
    weights = files.sha256(args.weights)
    content = {split: entry.sha256 for split, entry in source.splits.items()}
    facts = f"{sorted(content.items())} {weights} {net.digest}"
    return Wanted(
        format=feature_set.FORMAT,
        name=args.out.name,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest(),
        levels=tuple(Level(level.name, level.classes) for level in source.levels),
        options=with_order(source.options, args, len(crops)),
        versions=source.versions,
        features=Features(net.blob, net.channels, tuple(crops), weights),
    )


def listed(folder, present, crops):
    """{split: [Image]} of a data set; rows count through the splits, an image's crops together."""
    hierarchy, splits, row = Hierarchy.read(folder / "hierarchy.tsv"), {}, 0
    for split in present:
        found = {}
        own = crops if split == "train" else crops[:1]
        for name, label in read_listing(folder / f"{split}.tsv", hierarchy):
            if name not in found:
                found[name] = Image(name, label, tuple(own), tuple(range(row, row + len(own))))
                row += len(own)
        splits[split] = list(found.values())
    return hierarchy, splits


def stored_images(folder, splits):
    """Yield (name, image uint8 height x width x 3) of each Image, in order, with each split."""
    for split, members in splits.items():
        waiting = {image.name for image in members}
        names = (name for name, _ in read_listing(folder / f"{split}.tsv", _tree(folder)))
        for name, (_, value) in zip(names, lmdb_io.items(folder / f"{split}_images")):
            if name in waiting:
                waiting.remove(name)
                try:
                    yield name, lmdb_io.datum_image(lmdb_io.parse_datum(value))
                except images.ImageError as error:
                    raise UserError(f"{name} in {folder}: {error}") from None


def _tree(folder):
    return Hierarchy.read(folder / "hierarchy.tsv")


def extract(net, folder, splits, rows):
    """Append the features of all crops to a RowFile that may hold some of them already."""
    from tools.feature_net import crop

    wanted = [image for members in splits.values() for image in members]
    total = wanted[-1].rows[-1] + 1
    done, waiting = rows.count, []
    with progress.bar("features", "crops", total, done) as bar:
        for image, (_, pixels) in zip(wanted, stored_images(folder, splits)):
            if min(pixels.shape[:2]) < net.side:
                raise UserError(f"{image.name} in {folder} is smaller than the net's {net.side}")
            for row, name in zip(image.rows, image.crops):
                if row >= done:
                    waiting.append(crop(pixels, name, net.side))
            if len(waiting) >= BATCH or (waiting and image is wanted[-1]):
                rows.append(net.features(waiting))
                bar.update(len(waiting))
                waiting = []
    return rows.rows()


def build(place, wanted, splits, hierarchy, features):
    """Make the data set at a locked Place. features: function(folder of the state) -> n x C."""
    state, data = place.partial / "state", place.partial / "data"
    text = manifests.text(wanted).encode()
    path = state / "wanted.json"
    if not path.exists() or path.read_bytes() != text:
        place.remove_partial()
        state.mkdir(parents=True)
        files.write_whole(path, text)
        data.mkdir()  # without it the Place takes the state for that of a build that has ended
    rows = features(state)
    builder.emptied(data)
    manifest = feature_set.write(data, wanted, hierarchy, splits, rows)
    builder.publish(place)
    return manifest, feature_set.mean_length(rows)


def computed(args):
    """(Wanted, {split: [Image]}, Hierarchy, features) of the option --solver."""
    from tools.feature_net import crop_names, feature_net

    net = feature_net(args.solver, args.weights, args.blob)
    source = manifests.read(net.source)
    if source.channels:
        raise UserError(f"{net.source} holds features already, not images")
    if source.options.scales:
        raise UserError(
            f"{net.source} holds each training image at {len(source.options.scales)} sizes, and "
            "features are of one: build it without --scales"
        )
    crops = crop_names(net.mirror)
    if args.crops and args.crops > len(crops):
        raise UserError(f"--crops {args.crops}: there are {len(crops)}, as nothing is mirrored")
    crops = crops[: args.crops]
    hierarchy, splits = listed(net.source, source.present_splits, crops)

    def features(state):
        return extract(net, net.source, splits, RowFile(state / "rows.checkpoint", net.channels))

    return wanted_of(args, net, source, crops), splits, hierarchy, features


def _stored_feature(value, where):
    try:
        return lmdb_io.datum_feature(lmdb_io.parse_datum(value, where))
    except ValueError as error:
        raise UserError(f"{where}: {error}; compute the features again") from None


def reordered(args):
    """As `computed`, of the option --reorder."""
    manifest = manifests.read(args.reorder)
    if not manifest.channels:
        raise UserError(f"{args.reorder} holds images: --reorder takes what this command wrote")
    hierarchy, values, splits = _tree(args.reorder), [], {}
    for split in manifest.present_splits:
        found = {}
        records = read_listing(args.reorder / f"{split}.tsv", hierarchy)
        for (name, label), (_, value) in zip(
            records, lmdb_io.items(args.reorder / f"{split}_images")
        ):
            image, _, crop = name.rpartition("@") if split == "train" else (name, "", "center")
            crops = found.setdefault((image, label), {})
            if crop not in crops:
                crops[crop] = len(values)
                values.append(_stored_feature(value, f"{name} in {args.reorder}"))
        splits[split] = [
            Image(image, label, tuple(crops), tuple(crops.values()))
            for (image, label), crops in found.items()
        ]
    options = with_order(manifest.options, args, len(manifest.features.crops))
    if args.shuffle_parents is not None:
        if options.shuffled_parents is not None:
            raise UserError(f"{args.reorder} has shuffled parents: give the folder with the tree")
        options = replace(options, shuffled_parents=args.shuffle_parents)
        there = {image.label for found in splits.values() for image in found}
        real, hierarchy = hierarchy, control.tree_of(hierarchy, options, there)
        print(control.kept(real, hierarchy, there))
    base = {name: getattr(manifest, name) for name in Wanted.__dataclass_fields__}
    wanted = replace(
        Wanted(**base),
        name=args.out.name,
        options=options,
    )
    return wanted, splits, hierarchy, lambda state: np.stack(values)


def main():
    args = parse()
    place = Place.of(args.out)
    wanted, splits, hierarchy, features = (computed if args.solver else reordered)(args)
    with place.locked():
        if builder.is_current(place, wanted):
            print(f"{args.out} is up to date: nothing to do")
            return
        try:
            manifest, length = build(place, wanted, splits, hierarchy, features)
        except KeyboardInterrupt:
            print("stopped: run the same command to resume", file=sys.stderr)
            raise
    counts = ", ".join(f"{entry.images} {split}" for split, entry in manifest.splits.items())
    print(f"{args.out}: {counts} features of {manifest.channels} values, mean length {length:.3g}")
    print(order.line(manifest.splits["train"].order))
    if mark := control.mark(manifest.options):
        print(mark)
    print(f"wrote {args.out}; check it with data_prep/verify_lmdb.py {args.out}")


if __name__ == "__main__":
    command(main)
