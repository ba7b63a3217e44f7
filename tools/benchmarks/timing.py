"""Times several functions alternately in one run."""

import argparse
import statistics
import time


def positive(text):
    """Argument type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def add_runs(parser, default):
    """Add the option --runs to a benchmark."""
    parser.add_argument(
        "--runs", type=positive, default=default, help="number of runs (default: %(default)s)"
    )


def alternating_medians(functions, runs, before=lambda: None):
    """Median seconds of each function, called in turn so that drift affects all alike.

    before  function called before each of them; not timed
    """
    seconds = [[] for _ in functions]
    for function in functions:
        before()
        function()  # the first call warms caches and thread pools
    for _ in range(runs):
        for function, times in zip(functions, seconds):
            before()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]
