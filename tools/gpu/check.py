#!/usr/bin/env python3
"""Run every check of this project that needs a GPU (under 8 minutes).

Prints one line with the verdict of each check, and writes their numbers and facts about the machine
to a results file, which --table prints as Markdown. Without a GPU, it reports that and checks
nothing, with status 0. The status is 1 if a check failed.

Examples:
    tools/gpu/check.py
    tools/gpu/check.py --only nets,losses
    tools/gpu/check.py --table results/gpu_check.json
"""

import argparse
import functools
import inspect
import multiprocessing
import time
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffe_program
from tools.gpu import machine, report, sections

OUT = "results/gpu_check.json"


def isolated(function, *args):
    """function(*args) in a new process, which isolates Caffe's mode and aborts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def check(name):
    """Run one section: {verdict, seconds, summary, values}."""
    function, start = sections.SECTIONS[name], time.monotonic()
    if "isolated" in inspect.signature(function).parameters:
        run = functools.partial(function, True, isolated)
    else:
        run = functools.partial(isolated, function, True)
    values = None
    try:
        well, summary, values = run()
        verdict = "ok" if well else "FAILED"
    except sections.Skipped as reason:
        verdict, summary = "skipped", str(reason)
    except BrokenProcessPool:
        verdict, summary = "FAILED", "its process ended before it had a result, see above"
    except Exception as error:  # checks may fail in any way
        verdict, summary = "FAILED", f"{type(error).__name__}: {error}"
    return dict(verdict=verdict, seconds=time.monotonic() - start, summary=summary, values=values)


def names(text):
    chosen = text.split(",")
    for name in chosen:
        if name not in sections.SECTIONS:
            raise argparse.ArgumentTypeError(
                f"unknown check {name!r}; the checks are " + ", ".join(sections.SECTIONS)
            )
    return chosen


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the checks and exit")
    what.add_argument("--table", metavar="FILE", help="print a results file as Markdown and exit")
    parser.add_argument(
        "--only",
        type=names,
        metavar="A,B",
        default=list(sections.SECTIONS),
        help="checks to run (default: all)",
    )
    parser.add_argument(
        "--out", default=OUT, metavar="FILE", help="results file (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.table:
        print(report.tables(args.table), end="")
        return 0
    if args.list:
        for name in args.only:
            print(f"{name:12} {' '.join(sections.SECTIONS[name].__doc__.split())}")
        return 0
    try:
        facts = machine.facts()
    except OSError as reason:
        print(f"no GPU: {reason}; nothing was checked")
        return 0
    status, message = caffe_program.run("device_query", "-gpu", "all")
    if status:
        raise UserError(
            f"the machine has a GPU, but the caffe on PATH can't use it ({message}): build "
            "one with `docker/build_caffe.sh --cuda 13`, then `make test-gpu "
            "CAFFE_PREFIX=~/.local/caffe-cuda13`"
        )
    files.make_way(args.out)
    print(", ".join(gpu["name"] for gpu in facts["gpus"]))
    results = {}
    for name in args.only:
        results[name] = result = check(name)
        print(
            f"{result['verdict']:8} {name:12} {result['seconds']:5.0f} s  {result['summary']}",
            flush=True,
        )
        files.write_whole(args.out, report.dumps(facts, results))
    print(
        f"{sum(result['seconds'] for result in results.values()):.0f} s in all; numbers in "
        f"{args.out}"
    )
    return int(any(result["verdict"] == "FAILED" for result in results.values()))


if __name__ == "__main__":
    command(main)
