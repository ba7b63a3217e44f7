#!/usr/bin/env python3
"""Build the LMDBs that Caffe trains on, with their label tree, from a data set's archive."""

import argparse
import ctypes
import os
import tempfile
from pathlib import Path

from data_prep.common.command import command

# Nothing here uses BLAS, whose idle threads (one per processor) would spin for a while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from data_prep import builder, control, images, manifest as manifests, order
from data_prep.batches import Plan
from data_prep.build_options import BuildOptions
from data_prep.common.arguments import within
from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy, look_alikes
from data_prep.place import Place
from data_prep.readers import READERS
from data_prep.records import by_split, check_records, read_listing
from data_prep.validation import drawn

M_MMAP_THRESHOLD = -3  # of malloc.h
# Of --order hierarchical: option, default, smallest value, meaning.
BATCHES = (
    ("groups", 8, 1, "groups of siblings per batch, with C/G classes each"),
    ("classes", 32, 2, "classes per batch"),
    ("images", 4, 2, "different images per class in a batch"),
    ("epochs", 1, 1, "passes over the images, each in different batches, all stored in the LMDB"),
)
ORDER_HELP = """\
--order shuffled writes the training images in one random order. --order hierarchical writes batches
that suit the large-margin loss: each run of C x I records has C classes with I different images
each, includes siblings wherever the label tree has any, and spans at least two groups. Small groups
are topped up from others; a group with more than 1/G of the images appears more than once in a
batch. Each image is written E or E + 1 times; this takes precedence if a class has more images than
all its siblings. A class with fewer than I images is an error. Train with batches of C x I:
tools/make_prototxt.py --data ... --train-batch 128; each of N processes that train together takes
C x I / N.

"""


def _parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  data_prep/build_lmdb.py cub --root /data/CUB_200_2011\n"
        "  data_prep/build_lmdb.py cards\n\n"
        "For the options of one reader: data_prep/build_lmdb.py cub --help",
    )
    chosen = parser.add_subparsers(dest="reader", required=True, metavar="DATASET")
    for name, reader in READERS.items():
        own = chosen.add_parser(
            name,
            help=reader.DESCRIPTION,
            description=reader.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=ORDER_HELP
            + "It writes, in the folder of --out: {train,val,test}_{images,labels}/ (LMDBs),\n"
            "{train,val,test}.tsv (key, image, labels), hierarchy.tsv, mean.binaryproto,\n"
            "manifest.json, contact_sheet.png; val only if the data set has validation images",
        )
        reader.add_arguments(own)
        own.add_argument(
            "--out",
            type=Path,
            help="output folder (default: data/<name of the data set>, with _shuffled_SEED after "
            "--shuffle-parents SEED)",
        )
        own.add_argument(
            "--size",
            type=within(int, 16, 2048),
            help="width and height of the stored images (default: the first of --scales, else "
            f"{reader.SIZE})",
        )
        own.add_argument(
            "--scales",
            type=_scales,
            default=(),
            metavar="S,S,...",
            help="store every training image at each of these sizes, such as 256,320,384, for nets "
            "that take crops; other splits have --size, which is one of them",
        )
        own.add_argument(
            "--resize",
            choices=images.RESIZES,
            default="squeeze",
            help="squeeze (the default): scale to size x size, ignoring the aspect ratio; shorter: "
            "scale the shorter side to size, and let the net crop a square",
        )
        own.add_argument(
            "--encoded",
            choices=images.ENCODINGS,
            default="jpg",
            help="format of the "
            f"stored images: jpg (quality {images.JPEG_QUALITY}, the default), png (lossless) or "
            "raw (uncompressed pixels: the largest files, but Caffe need not decode them)",
        )
        if own.get_default("bbox") is not None:
            own.add_argument(
                "--context",
                type=within(float, 0, 10, "a share from "),
                default=0.0,
                metavar="SHARE",
                help="with --bbox, margin on each side of the box, as a share of its width and "
                "height, clipped to the image (default: 0)",
            )
        own.add_argument(
            "--skip-bad",
            action="store_true",
            help="leave out unusable images and list them in manifest.json, instead of refusing to "
            "build; takes one more pass over the images",
        )
        own.add_argument(
            "--validation",
            type=within(int, 1, 10**7),
            metavar="N",
            help="move N training images, chosen by --seed and proportionally from each class, to "
            "the split val",
        )
        own.add_argument(
            "--skip-duplicates",
            action="store_true",
            help="leave out training images that are also test images, and identical images of "
            "different classes, and list them in manifest.json; takes one more pass over the "
            "images (default: keep them and warn)",
        )
        own.add_argument(
            "--order",
            choices=order.ORDERS,
            default="shuffled",
            help="order of the training images (default: shuffled; see below); other splits keep "
            "the order of their list",
        )
        for option, default, least, meaning in BATCHES:
            own.add_argument(
                f"--{option}",
                type=within(int, least, 100_000),
                metavar=option[0].upper(),
                help=f"with --order hierarchical, {meaning} (default: {default})",
            )
        own.add_argument(
            "--seed",
            type=within(int, -(10**9), 10**9),
            default=0,
            help="seed of the order and of randomly drawn splits (default: 0)",
        )
        control.add_argument(own)
        own.add_argument(
            "--report-batch",
            type=within(int, 2, 100_000),
            metavar="N",
            help="report for batches of N images which share of the large-margin loss is defined "
            f"(default: C x I with --order hierarchical, otherwise {order.REPORTED})",
        )
        own.add_argument(
            "--dry-run",
            action="store_true",
            help="write nothing; report what would be written, with the figures of --report-batch",
        )
        own.add_argument(
            "--jobs",
            type=within(int, 1, 256),
            default=cores_of_process(),
            help="number of threads (default: number of available processors, %(default)s)",
        )
        own.add_argument(
            "--force",
            action="store_true",
            help="rebuild from scratch, even if nothing has changed",
        )
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        _refuse(args.reader, unknown, chosen.choices)
    args.context = getattr(args, "context", 0.0)
    if args.context and not args.bbox:
        chosen.choices[args.reader].error("--context is a margin around boxes: it needs --bbox")
    args.size = args.size or (args.scales[0] if args.scales else READERS[args.reader].SIZE)
    if args.scales and args.size not in args.scales:
        chosen.choices[args.reader].error(
            f"--size {args.size}, of the images of the other splits, is not one of --scales"
        )
    given = [option for option, *_ in BATCHES if getattr(args, option) is not None]
    if given and args.order != "hierarchical":
        chosen.choices[args.reader].error(f"--{given[0]} needs --order hierarchical")
    args.batches = None
    if args.order == "hierarchical":
        args.batches = Plan(
            **{
                option: default if getattr(args, option) is None else getattr(args, option)
                for option, default, *_ in BATCHES
            }
        )
    return args


def _scales(text):
    """argparse type: different sizes with commas between them."""
    sizes = tuple(map(within(int, 16, 2048), text.split(",")))
    if len(set(sizes)) < len(sizes):
        raise argparse.ArgumentTypeError("a size occurs twice")
    return sizes


_scales.__name__ = "list of sizes, such as 256,320,384,"  # argparse's message: "invalid ... value"


def _refuse(reader, unknown, parsers):
    """UserError for arguments that the parser of this reader does not know."""
    if "--bbox" in unknown:
        boxed = [name for name, own in parsers.items() if own.get_default("bbox") is not None]
        raise UserError(
            f"--bbox: {reader} has no boxes to crop to; leave it out ({', '.join(boxed)} have it)"
        )
    raise UserError(
        f"{reader} does not take {' '.join(unknown)}: data_prep/build_lmdb.py {reader} --help "
        "lists its options"
    )


def _report(name, records, options, hierarchy, batch):
    """Print a summary of the records (image, fine label) of each split and of their batches."""
    images = len({image for image, _ in records["train"]})
    again = f" (of {images} images)" if images < len(records["train"]) else ""
    tree = " -> ".join(f"{size} {level}" for size, level in zip(hierarchy.sizes, hierarchy.levels))
    others = [f"{len(part)} {split}" for split, part in records.items() if split != "train"]
    counts = ", ".join([f"{len(records['train'])} train{again}", *others[:-1]])
    counts = f"{counts} and {others[-1]} records"
    print(f"{name}: {counts}, {tree}")
    labels = np.array([label for _, label in records["train"]])
    print(order.line(order.facts(labels, options, hierarchy, batch)))
    if options.batches:
        print(
            "train with batches of {0} (tools/make_prototxt.py --train-batch {0}): other sizes "
            "do not line up with this order".format(order.batch_size(options))
        )


def _dry_run(name, source, options, args):
    with tempfile.TemporaryDirectory() as folder:
        records = source.prepare(Path(folder), args.jobs)
    check_records(records, source.hierarchy)
    hierarchy = control.tree_of(source.hierarchy, options, {record.label for record in records})
    parts = by_split(drawn(records, args.validation, args.seed))
    parts["train"], _ = order.ordered(parts["train"], options, hierarchy)
    pairs = {split: [(r.name, r.label) for r in part] for split, part in parts.items()}
    _report(f"dry run of {name}", pairs, options, hierarchy, args.report_batch)
    _report_control(pairs, options, source.hierarchy, hierarchy)


def _report_control(records, options, real, hierarchy):
    """Print what --shuffle-parents did, if it was given. records: as of _report."""
    if mark := control.mark(options):
        labels = {label for part in records.values() for _, label in part}
        print(f"{mark}: {control.kept(real, hierarchy, labels)}")


def _built_tree(folder):
    try:
        return Hierarchy.read(folder / "hierarchy.tsv")
    except UserError as error:
        raise UserError(f"{error}: build the data set again with --force") from None


def _return_memory():
    """Have the C library return freed memory of a few MB to the system at once.

    By default it keeps blocks of up to 32 MB per thread, which would exceed README.md's bound.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 4 << 20)


def main(argv=None):
    args = _parse(argv)
    _return_memory()
    reader = READERS[args.reader]
    if args.shuffle_parents is not None and not args.out:  # not in place of the real data set
        args.out = Path("data") / control.default_name(reader.name(args), args.shuffle_parents)
    place = args.out and Place.of(args.out)  # a bad --out fails before any work
    name = reader.name(args)
    out = args.out or Path("data") / name
    place = place or Place.of(out)
    source = reader.open_source(args)
    for sentence in look_alikes(source.hierarchy):
        print(f"warning: {sentence}")
    options = BuildOptions(
        size=args.size,
        resize=args.resize,
        encoded=args.encoded,
        context=args.context,
        skip_bad=args.skip_bad,
        skip_duplicates=args.skip_duplicates,
        order=args.order,
        seed=args.seed,
        batches=args.batches,
        validation=args.validation,
        shuffled_parents=args.shuffle_parents,
        scales=args.scales,
    )
    control.tree_of(source.hierarchy, options, range(source.hierarchy.sizes[0]))  # may refuse it
    if args.dry_run:
        _dry_run(name, source, options, args)
        return 0
    wanted = builder.wanted_manifest(name, source, options)
    with place.locked():
        current = builder.is_current(place, wanted) and not args.force
        if current:
            manifest = manifests.read(place.path)
        else:
            manifest = builder.build(place, source, wanted, args.jobs, afresh=args.force)
        hierarchy = _built_tree(place.path)
        records = {
            split: read_listing(place.path / f"{split}.tsv", hierarchy)
            for split in manifest.present_splits
        }
    if current:
        print(f"{out} is up to date: nothing to do (--force rebuilds it)")
    _report(out, records, options, hierarchy, args.report_batch)
    _report_control(records, options, source.hierarchy, hierarchy)
    for warning in builder.warnings(manifest, hierarchy):
        print(warning)
    if not current:
        print(
            f"wrote {out}: mean BGR {list(manifest.mean_bgr)}; look at "
            f"{out / 'contact_sheet.png'}, check it with data_prep/verify_lmdb.py {out}"
        )
    return 0


if __name__ == "__main__":
    command(main)
