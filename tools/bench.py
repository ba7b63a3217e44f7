#!/usr/bin/env python3
"""Benchmark the project's own code against a reference measured in the same run."""

import argparse

import tools.pycaffe  # noqa: F401 (before others load Caffe: it limits Caffe's log)
from data_prep.common.command import command
from tools.benchmarks import lmdb, losses, memory, parallel, predict, step, variants

EXAMPLES = """examples, on an idle machine:
  tools/bench.py losses     metric losses, against matrix products and other implementations
  tools/bench.py memory     the large-margin loss with a memory of earlier batches
  tools/bench.py lmdb       build_lmdb.py, against Caffe's convert_imageset
  tools/bench.py step       the share of each layer in a training step
  tools/bench.py step --peers   a step and a forward pass beside other engines
  tools/bench.py variants   a training step of every variant, beside plain softmax
  tools/bench.py parallel   processes of one thread, against one process with all threads
  tools/bench.py predict    photographs to answers, against the bare net
"""

# Each module has a docstring (its line in the help), add_options(parser) and run(options).
BENCHMARKS = {
    "losses": losses,
    "memory": memory,
    "lmdb": lmdb,
    "step": step,
    "variants": variants,
    "parallel": parallel,
    "predict": predict,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name, benchmark in BENCHMARKS.items():
        one = commands.add_parser(
            name,
            help=benchmark.__doc__,
            description=benchmark.run.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        benchmark.add_options(one)
        one.set_defaults(run=benchmark.run)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    command(main)
