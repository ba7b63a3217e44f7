#!/usr/bin/env python3
"""Benchmarks: how long the project's own code takes beside a yardstick measured in the same run."""

import argparse

from data_prep.common.command import command
from tools.benchmarks import lmdb, losses, memory, step

EXAMPLES = """examples, on an idle machine:
  tools/bench.py losses     metric losses beside matrix products, and beside others' losses
  tools/bench.py memory     the large-margin loss with a memory of earlier batches
  tools/bench.py lmdb       build_lmdb.py beside Caffe's convert_imageset
  tools/bench.py step       the part of a training step that each layer of a net takes
"""

# Each has __doc__ (its line in the help), add_options(parser) and run(options), described there.
BENCHMARKS = {"losses": losses, "memory": memory, "lmdb": lmdb, "step": step}


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
    options.run(options)


if __name__ == "__main__":
    command(main)
