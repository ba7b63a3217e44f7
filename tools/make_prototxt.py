#!/usr/bin/env python3
"""Write the nets, solvers and deploy files that `caffe train` and others read."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import the repository's packages, not this folder's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from data_prep.cli import UserError, command  # must be the first project import

import argparse
import re

from tools.files import write_whole
from tools.nets import tables
from tools.nets.datasets import built_dataset, restrict
from tools.nets.files import file_texts
from tools.nets.options import glm_parameters, positive

PROTOTXT = Path("prototxt")
EXAMPLES = """examples, from the repository's root:
  tools/make_prototxt.py              all of prototxt/, from the tables in tools/nets/tables.py
  tools/make_prototxt.py --check      is prototxt/ as the tables say?
  tools/make_prototxt.py --data data/mine --net googlenet --out prototxt/mine --train-batch 16
                                      for a data set you built: sizes and counts are its own
  tools/make_prototxt.py --dataset cub --bbox --net vgg16 --levels 2 --out prototxt/two
                                      species and family only, images cut to their boxes
"""


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
    one.add_argument("--bbox", action="store_true", help="solvers for the images cut to their "
                     "ground-truth boxes (a folder of --data has them or not)")
    one.add_argument("--levels", metavar="N|NAMES", help="only so many levels of the label tree, "
                     "from the finest on, or those of these names: 2, or species,order")
    one.add_argument("--net", choices=list(tables.NETS))
    one.add_argument("--out", type=Path, metavar="FOLDER",
                     help="of the files, relative to the repository's root")
    one.add_argument("--variant", choices=list(tables.STAGES), action="append",
                     help="repeatable (default: all)")
    one.add_argument("--name", help="the data set's in file names and snapshot folders, to keep "
                     "experiments apart (default: its own)")
    number, rate = positive(int, "number above 0"), positive(float, "number above 0")
    one.add_argument("--train-batch", type=number, metavar="N", help="images per iteration")
    one.add_argument("--max-iter", type=number, metavar="N", help="iterations")
    one.add_argument("--base-lr", type=rate, metavar="RATE", help="learning rate")
    one.add_argument("--glm-json", metavar="JSON", default="",
                     help="""parameters of the large-margin loss, e.g. '{"margins": [1, 0.5]}'""")
    one.add_argument("--diagnostics", action="store_true", help="let the metric losses print their "
                     "diagnostics at each display; tools/plot_log.py draws them")
    options = parser.parse_args(arguments)
    single = options.dataset or options.data
    if single and not (options.net and options.out):
        parser.error("--dataset and --data need --net and --out")
    for name, value in vars(options).items():
        if value and not single and name not in ("check", "dataset", "data"):
            parser.error(f"--{name.replace('_', '-')} needs --dataset or --data")
    if options.check and single:
        parser.error("--check is about all of prototxt/: it takes no other option")
    if options.bbox and not (options.dataset and tables.DATASETS[options.dataset].boxes):
        parser.error("--bbox needs a --dataset with boxes: "
                     + ", ".join(name for name, known in tables.DATASETS.items() if known.boxes))
    return options


def _texts(options):
    """{path: text} of what the options ask for."""
    if not (options.dataset or options.data):
        if not PROTOTXT.is_dir():
            raise UserError(f"no folder {PROTOTXT} here: run this in the repository's root")
        return {PROTOTXT / name: text for dataset, net in tables.GRID for name, text in
                file_texts(tables.DATASETS[dataset], tables.NETS[net], str(PROTOTXT)).items()}
    net = tables.NETS[options.net]
    dataset = built_dataset(options.data, net) if options.data else tables.DATASETS[options.dataset]
    if options.levels:
        dataset = restrict(dataset, options.levels)
    name = options.name or dataset.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r} can't be part of a file name: give --name letters, digits, "
                        "_ - and . only")
    made = file_texts(dataset, net, options.out.as_posix(),
                      options.variant or tuple(tables.STAGES), name=name,
                      chosen=(tables.BBOX,) if options.bbox else (),
                      batch=options.train_batch, max_iter=options.max_iter,
                      base_lr=options.base_lr, diagnostics=options.diagnostics,
                      glm=glm_parameters(options.glm_json, len(dataset.sizes)))
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
