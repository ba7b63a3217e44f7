"""Timing several functions fairly in one run."""

import statistics
import time


def alternating_medians(functions, runs):
    """Median seconds of each function; called in turn, so that a drift hits all alike."""
    seconds = [[] for _ in functions]
    for function in functions:
        function()  # the first call warms caches and thread pools
    for _ in range(runs):
        for function, times in zip(functions, seconds):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]
