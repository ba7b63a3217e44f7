#!/usr/bin/env python3
"""Make the LMDBs that Caffe trains on from a data set's archive, with its label tree."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the repository's packages, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import command

import argparse
import os

from data_prep import builder, images
from data_prep.readers import READERS


# Of the command, for the manifest; a reader has its own besides.
OPTIONS = ("size", "resize", "encoded", "context", "skip_bad", "order", "seed")


def _whole(low, high):
    def convert(text):
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{low} to {high} expected")
        return value

    convert.__name__ = "whole number"
    return convert


def _margin(text):
    value = float(text)
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError("a share from 0 to 10 expected")
    return value


_margin.__name__ = "number"  # what argparse calls it


def _parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  data_prep/build_lmdb.py cub --root /data/CUB_200_2011\n"
        "  data_prep/build_lmdb.py cards\n\n"
        "Options of a data set: data_prep/build_lmdb.py cub --help",
    )
    chosen = parser.add_subparsers(dest="reader", required=True, metavar="DATASET")
    for name, reader in READERS.items():
        own = chosen.add_parser(
            name,
            help=reader.DESCRIPTION,
            description=reader.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="It writes, in the folder of --out: {train,test}_{images,labels}/ (LMDBs),\n"
            "hierarchy.tsv, mean.binaryproto, manifest.json, contact_sheet.png,\n"
            "{train,test}.tsv (key, image, labels)",
        )
        reader.add_arguments(own)
        own.add_argument(
            "--out", type=Path, help="folder to make (default: data/<name of the data set>)"
        )
        own.add_argument(
            "--size",
            type=_whole(16, 2048),
            default=reader.SIZE,
            help="width and height of the stored images (default: %(default)s)",
        )
        own.add_argument(
            "--resize",
            choices=images.RESIZES,
            default="squeeze",
            help="squeeze: to size x size, the aspect ratio is lost (the default); shorter: the "
            "shorter side becomes size, and the net must crop a square",
        )
        own.add_argument(
            "--encoded",
            choices=images.ENCODINGS,
            default="jpg",
            help="how images are "
            f"stored: jpg (quality {images.JPEG_QUALITY}, the default), png (lossless) or raw "
            "pixels, which Caffe reads without decoding and which take the most room",
        )
        if own.get_default("bbox") is not None:
            own.add_argument(
                "--context",
                type=_margin,
                default=0.0,
                metavar="SHARE",
                help="with --bbox, a margin around the box on each side, of its width and height, "
                "as far as the image goes (default: 0)",
            )
        own.add_argument(
            "--skip-bad",
            action="store_true",
            help="leave out images that can't be used, which manifest.json then lists, instead of "
            "building nothing; every image is looked at once more",
        )
        own.add_argument(
            "--order",
            choices=("shuffled", "listed"),
            default="shuffled",
            help="of the training images (default: shuffled); test images stay as listed",
        )
        own.add_argument("--seed", type=int, default=0, help="of the shuffling (default: 0)")
        own.add_argument(
            "--jobs",
            type=_whole(1, 256),
            default=len(os.sched_getaffinity(0)),
            help="threads (default: the processors at hand, %(default)s)",
        )
        own.add_argument(
            "--force",
            action="store_true",
            help="build even if nothing has changed, from the first image on",
        )
    args = parser.parse_args(argv)
    args.context = getattr(args, "context", 0.0)
    if args.context and not args.bbox:
        chosen.choices[args.reader].error("--context is a margin around boxes: it needs --bbox")
    return args


def main(argv=None):
    args = _parse(argv)
    reader = READERS[args.reader]
    name = reader.name(args)
    out = args.out or Path("data") / name
    source = reader.open_source(args)
    options = {key: getattr(args, key) for key in OPTIONS}
    manifest = builder.wanted_manifest(name, source, options)
    with builder.locked(out):
        if builder.is_current(out, manifest) and not args.force:
            print(f"{out} is up to date: nothing to do (--force builds it anew)")
            return 0
        manifest = builder.build(out, source, manifest, args.jobs, afresh=args.force)
    counts = ", ".join(f"{entry['images']} {split}" for split, entry in manifest["splits"].items())
    tree = " -> ".join(f"{level['classes']} {level['name']}" for level in manifest["levels"])
    print(
        f"wrote {out}: {counts} images, {tree}; mean BGR {manifest['mean_bgr']}; look at "
        f"{out / 'contact_sheet.png'}, prove it with data_prep/verify_lmdb.py {out}"
    )
    return 0


if __name__ == "__main__":
    command(main)
