#!/usr/bin/env python3
"""Write the nets, solvers and deploy files that `caffe train` and others read."""

import sys
from pathlib import Path
if __package__ in (None, ""):  # run as a file: import the repository's packages, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import UserError, command

import argparse
import dataclasses
import json
import os
import re

from data_prep.hierarchy import Hierarchy
from tools.nets import tables
from tools.nets.files import file_texts

PROTOTXT = "prototxt"
EXAMPLES = """examples, from the repository's root:
  tools/make_prototxt.py                                   all of prototxt/, from the tables in tools/nets/tables.py
  tools/make_prototxt.py --check                           does prototxt/ agree with the tables?
  tools/make_prototxt.py --data data/cub --net googlenet --name cub_small --out data/cub/prototxt --train-batch 16
                                                           a data set you built: sizes and counts are read from it
"""


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 naming the files that differ")
    one = parser.add_argument_group("one combination instead of all")
    what = one.add_mutually_exclusive_group()
    what.add_argument("--dataset", choices=sorted(tables.DATASETS), help="with the official counts")
    what.add_argument("--data", type=Path, metavar="FOLDER", help="a data set built by data_prep/build_lmdb.py")
    one.add_argument("--net", choices=sorted(tables.NETS))
    one.add_argument("--variant", choices=list(tables.STAGES), action="append",
                     help="may be repeated (default: all six)")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go, relative to the repository's root")
    one.add_argument("--name", help="of the data set in file names and snapshot folders (default: its own)")
    one.add_argument("--train-batch", type=_positive(int), metavar="N")
    one.add_argument("--max-iter", type=_positive(int), metavar="N")
    one.add_argument("--base-lr", type=_positive(float), metavar="RATE")
    one.add_argument("--glm-json", type=_json_object, metavar="JSON", default={},
                     help="""parameters of the large-margin loss, e.g. '{"margins": [0.5, 0.5, 0.5]}'""")
    options = parser.parse_args(arguments)
    single = bool(options.dataset or options.data)
    if single and not (options.net and options.out):
        parser.error("--dataset and --data go with --net and --out")
    used = [name for name in ("net", "variant", "out", "name", "train_batch", "max_iter", "base_lr", "glm_json")
            if getattr(options, name)]
    if used and not single:
        parser.error(f"--{used[0].replace('_', '-')} needs --dataset or --data")
    if options.check and single:
        parser.error("--check compares all of prototxt/ and takes no other option")
    return options


def _positive(kind):
    def convert(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value
    convert.__name__ = f"positive {kind.__name__}"
    return convert


def _json_object(text):
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


_json_object.__name__ = "JSON object"


def built_dataset(folder):
    """tables.Dataset of a folder that data_prep/build_lmdb.py made: sizes and counts are the folder's own."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        name, counts = manifest["name"], [manifest["splits"][split]["images"] for split in ("train", "test")]
    except FileNotFoundError:
        raise UserError(f"{folder} has no manifest.json: build the data set with data_prep/build_lmdb.py "
                        "(see --help), or correct --data")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/manifest.json is damaged ({error!r}): build the data set again")
    if not all(counts):
        raise UserError(f"{folder} has {counts[0]} training and {counts[1]} test images: a net needs both")
    tree = Hierarchy.read(folder / "hierarchy.tsv")
    known = tables.DATASETS.get(name)
    facts = dict(name=name, levels=tuple(tree.levels), sizes=tuple(tree.sizes), train=counts[0], test=counts[1],
                 folder=folder.as_posix())
    if known is None:
        return tables.Dataset(title=name, build="data_prep/build_lmdb.py (see --help)", **facts)
    return dataclasses.replace(known, **facts, small={**known.small, "folder": folder.as_posix()} if known.small else {})


def texts(options):
    """{path: text} of what the options ask for."""
    if options.dataset is None and options.data is None:
        return {Path(PROTOTXT) / name: content for pair in tables.GRID
                for name, content in file_texts(tables.DATASETS[pair[0]], tables.NETS[pair[1]], PROTOTXT).items()}
    dataset = built_dataset(options.data) if options.data else tables.DATASETS[options.dataset]
    name = options.name or dataset.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"'{name}' cannot be part of a file name: give --name letters, digits, _ - and . only")
    variants = [v for v in tables.STAGES if not options.variant or v in options.variant]
    files = file_texts(dataset, tables.NETS[options.net], options.out.as_posix(), variants, name=name,
                       batch=options.train_batch, max_iter=options.max_iter, base_lr=options.base_lr,
                       glm=options.glm_json)
    return {options.out / file: content for file, content in files.items()}


def differing(wanted):
    """Paths whose content is not the wanted one, and prototxts in prototxt/ that nothing wants."""
    stale = [path for path in sorted(Path(PROTOTXT).glob("*.prototxt")) if path not in wanted]
    return stale + [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(content)
    beside.replace(path)


def main():
    options = parse(sys.argv[1:])
    wanted = texts(options)
    if options.check:
        wrong = differing(wanted)
        if wrong:
            raise UserError(f"{', '.join(map(str, wrong))}: not as the tables in tools/nets/ say; "
                            "run tools/make_prototxt.py and commit what it writes")
        print(f"{len(wanted)} files in {PROTOTXT}/ are as the tables say")
        return
    for path, content in wanted.items():
        write(path, content)
        for prefix in re.findall(r'(?m)^snapshot_prefix: "(.*)/', content):
            Path(prefix).mkdir(parents=True, exist_ok=True)  # Caffe does not
    print(f"wrote {len(wanted)} files into {', '.join(sorted({str(path.parent) for path in wanted}))}/")


if __name__ == "__main__":
    command(main)
