#!/usr/bin/env python3
"""Write nets, solvers and deploy files for Caffe."""

import argparse
import sys
from pathlib import Path

from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools.nets import tables
from tools.nets.datasets import built_dataset, restrict
from tools.nets.files import file_texts, write
from tools.nets.options import (
    add_data_options,
    add_net_options,
    add_run_options,
    check_boxes,
    run_values,
)

PROTOTXT = Path("prototxt")
EXAMPLES = """examples, from the repository's root:
  tools/make_prototxt.py              all of prototxt/, from the tables in tools/nets/tables.py
  tools/make_prototxt.py --check      compare prototxt/ with the tables
  tools/make_prototxt.py --data data/mine --net googlenet --out prototxt/mine --train-batch 16
                                      for a data set of your own, with its sizes and counts
  tools/make_prototxt.py --dataset cub --bbox --net vgg16 --levels 2 --out prototxt/two
                                      species and family only, images cropped to their boxes
  tools/make_prototxt.py --dataset cars --net alexnet --variant ours --lambda 0.4 \\
      --name cars_0.4 --out prototxt/mine
                                      another weight of the large-margin loss
"""


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1, naming the files that differ"
    )
    one = parser.add_argument_group("one data set and network instead of all")
    add_data_options(one)
    add_net_options(one)
    add_run_options(one)
    options = parser.parse_args(arguments)
    single = options.dataset or options.data
    if single and not (options.net and options.out):
        parser.error("--dataset and --data need --net and --out")
    for name, value in vars(options).items():
        if value != parser.get_default(name) and not single and name != "check":
            parser.error(f"--{name.replace('_', '-')} needs --dataset or --data")
    if options.check and single:
        parser.error("--check compares all of prototxt/: it takes no other option")
    check_boxes(parser, options)
    return options


def _texts(options):
    """{path: text} of the files that the options ask for."""
    if not (options.dataset or options.data):
        if not PROTOTXT.is_dir():
            raise UserError(f"no folder {PROTOTXT} here: run this in the repository's root")
        return {
            PROTOTXT / name: text
            for dataset, net in tables.GRID
            for name, text in file_texts(
                tables.DATASETS[dataset], tables.NETS[net], str(PROTOTXT)
            ).items()
        }
    net = tables.NETS[options.net]
    if options.crop:
        net = net.reading(options.crop)
    dataset = (
        built_dataset(options.data, net, options.test_split)
        if options.data
        else tables.DATASETS[options.dataset]
    )
    if options.levels is not None:
        dataset = restrict(dataset, options.levels)
    made = file_texts(dataset, net, options.out.as_posix(), **run_values(options, dataset))
    return {options.out / file: text for file, text in made.items()}


def _differing(wanted):
    """Paths in prototxt/ that are missing, have other content, or should not exist."""
    there = set(PROTOTXT.glob("*.prototxt"))
    return sorted(
        path
        for path in there | set(wanted)
        if path not in wanted or path not in there or path.read_bytes() != wanted[path].encode()
    )


def main():
    options = _parse(sys.argv[1:])
    wanted = _texts(options)
    if options.check:
        wrong = _differing(wanted)
        if wrong:
            raise UserError(
                f"these files differ from the tables in tools/nets/: {', '.join(map(str, wrong))}; "
                "run tools/make_prototxt.py"
            )
        print(f"{len(wanted)} files in {PROTOTXT}/ agree with the tables in tools/nets/")
        return
    write(wanted)
    print(f"wrote {len(wanted)} files into {next(iter(wanted)).parent}/")


if __name__ == "__main__":
    command(main)
