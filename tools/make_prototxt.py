#!/usr/bin/env python3
"""Write the nets, solvers and deploy files that `caffe train` and others read."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import the repository's packages, not this folder's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import UserError, command  # must be the first project import

import argparse
import dataclasses
import json
import re

from data_prep.hierarchy import Hierarchy
from python_layers import glm_loss
from tools.files import write_whole
from tools.nets import tables
from tools.nets.files import file_texts

PROTOTXT = Path("prototxt")
EXAMPLES = """examples, from the repository's root:
  tools/make_prototxt.py              all of prototxt/, from the tables in tools/nets/tables.py
  tools/make_prototxt.py --check      is prototxt/ as the tables say?
  tools/make_prototxt.py --data data/cub --net googlenet --out snapshots/mine --train-batch 16
                                      for a data set you built: sizes and counts are its own
"""


def _positive(kind, name):
    def convert(text):
        value = kind(text)
        if not 0 < value < 2**31:  # Caffe's numbers of images and iterations are of 32 bits
            raise ValueError
        return value
    convert.__name__ = name
    return convert


def _parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1, naming the files that differ")
    one = parser.add_argument_group("one combination instead of all")
    source = one.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=list(tables.DATASETS), help="with its official counts")
    source.add_argument("--data", type=Path, metavar="FOLDER",
                        help="a data set that data_prep/build_lmdb.py made")
    one.add_argument("--net", choices=list(tables.NETS))
    one.add_argument("--out", type=Path, metavar="FOLDER",
                     help="of the files, relative to the repository's root")
    one.add_argument("--variant", choices=list(tables.STAGES), action="append",
                     help="repeatable (default: all)")
    one.add_argument("--name", help="the data set's in file names and snapshot folders, to keep "
                     "experiments apart (default: its own)")
    number, rate = _positive(int, "number above 0"), _positive(float, "number above 0")
    one.add_argument("--train-batch", type=number, metavar="N", help="images per iteration")
    one.add_argument("--max-iter", type=number, metavar="N", help="iterations")
    one.add_argument("--base-lr", type=rate, metavar="RATE", help="learning rate")
    one.add_argument("--glm-json", metavar="JSON", default="",
                     help="""parameters of the large-margin loss, e.g. '{"margins": [1, 0.5]}'""")
    options = parser.parse_args(arguments)
    single = options.dataset or options.data
    if single and not (options.net and options.out):
        parser.error("--dataset and --data need --net and --out")
    for name in ("net", "out", "variant", "name", "train_batch", "max_iter", "base_lr", "glm_json"):
        if getattr(options, name) and not single:
            parser.error(f"--{name.replace('_', '-')} needs --dataset or --data")
    if options.check and single:
        parser.error("--check is about all of prototxt/: it takes no other option")
    return options


def built_dataset(folder, net):
    """tables.Dataset of a folder that data_prep/build_lmdb.py made, with the folder's own counts.

    Raises UserError if the folder lacks its manifest or label tree, has no images of a split, or
    images too small for the tables.Net.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        name = manifest["name"]
        train, test = (manifest["splits"][split]["images"] for split in ("train", "test"))
        side = manifest["options"]["size"]
        if not isinstance(name, str) or {int} != {type(train), type(test), type(side)}:
            raise ValueError("values of other types than build_lmdb.py's")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} has no manifest.json: build the data set with "
                        "data_prep/build_lmdb.py, or correct --data") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/manifest.json can't be read ({error!r}): build the data set "
                        "again with data_prep/build_lmdb.py") from None
    if min(train, test) < 1:
        raise UserError(f"{folder} has {train} training and {test} test images: both are needed")
    tree = Hierarchy.read(folder / "hierarchy.tsv")
    own = dict(levels=tuple(tree.levels), sizes=tuple(tree.sizes), train=train, test=test,
               folder=folder.as_posix())
    if name in tables.DATASETS:
        known = tables.DATASETS[name]
        small = {**known.small, "folder": own["folder"]} if side < net.crop else {}
        dataset = dataclasses.replace(known, **own, small=small)
    else:
        dataset = tables.Dataset(name=name, title=name, build="data_prep/build_lmdb.py", **own)
    crop = dataset.for_net(net).crop or net.crop
    if side < crop:
        raise UserError(f"the images in {folder} are {side} pixels wide and {net.title} reads "
                        f"{crop} x {crop}: build the data set with a larger --size, such as 256")
    return dataset


def _glm(text, levels):
    """Parameters of the large-margin loss that a user gave, as the layer itself reads them."""
    try:
        glm_loss.settings(text, levels, "--glm-json")
    except ValueError as error:
        raise UserError(str(error)) from None
    return json.loads(text) if text.strip() else {}


def _texts(options):
    """{path: text} of what the options ask for."""
    if not (options.dataset or options.data):
        if not PROTOTXT.is_dir():
            raise UserError(f"no folder {PROTOTXT} here: run this in the repository's root")
        return {PROTOTXT / name: text for dataset, net in tables.GRID for name, text in
                file_texts(tables.DATASETS[dataset], tables.NETS[net], str(PROTOTXT)).items()}
    net = tables.NETS[options.net]
    dataset = built_dataset(options.data, net) if options.data else tables.DATASETS[options.dataset]
    name = options.name or dataset.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r} can't be part of a file name: give --name letters, digits, "
                        "_ - and . only")
    made = file_texts(dataset, net, options.out.as_posix(),
                      options.variant or tuple(tables.STAGES), name=name,
                      batch=options.train_batch, max_iter=options.max_iter,
                      base_lr=options.base_lr, glm=_glm(options.glm_json, len(dataset.sizes)))
    return {options.out / file: text for file, text in made.items()}


def _differing(wanted):
    """Paths in prototxt/ that are missing, not as wanted, or not wanted."""
    there = set(PROTOTXT.glob("*.prototxt"))
    return sorted(path for path in there | set(wanted) if path not in wanted
                  or path not in there or path.read_text(encoding="utf-8") != wanted[path])


def main():
    options = _parse(sys.argv[1:])
    wanted = _texts(options)
    if options.check:
        wrong = _differing(wanted)
        if wrong:
            raise UserError(f"not as the tables in tools/nets/ say: {', '.join(map(str, wrong))}; "
                            "run tools/make_prototxt.py")
        print(f"{len(wanted)} files in {PROTOTXT}/ are as the tables in tools/nets/ say")
        return
    for path, text in wanted.items():
        write_whole(path, text)
        for prefix in re.findall(r'(?m)^snapshot_prefix: "(.*)/', text):
            Path(prefix).mkdir(parents=True, exist_ok=True)  # Caffe doesn't
    print(f"wrote {len(wanted)} files into {next(iter(wanted)).parent}/")


if __name__ == "__main__":
    command(main)
