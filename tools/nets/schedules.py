"""Learning-rate policies as rows of a solver: (field, value or function of max_iter, reason)."""

import functools
import math
from dataclasses import dataclass

# Candidates for the ratio of two stairs. Fine ones follow the cosine closely; in a short run its
# end falls faster than one of their stairs per iteration, all that Caffe's multistep can do.
RATIOS = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)
LOWEST = 0.01  # of base_lr: the last stair


def step(reason):
    """Rows of the step policy: one step."""
    return (
        ("lr_policy", "step", reason),
        ("gamma", 0.1, None),
        ("stepsize", lambda n: max(1, n * 2 // 3), "one step, after two thirds of the run"),
    )


def poly(power, reason):
    """Rows of the polynomial policy."""
    return (("lr_policy", "poly", reason), ("power", power, None))


def cosine():
    """Rows of a multistep policy that follows half a cosine, which Caffe has no policy for."""
    return (
        (
            "lr_policy",
            "multistep",
            lambda n: _said(staircase(n)),
        ),
        ("gamma", lambda n: staircase(n).ratio, None),
        ("stepvalue", lambda n: staircase(n).steps, None),
    )


def _said(stairs):
    return (
        f"stairs along (1 + cos(pi iter / max_iter)) / 2: within {100 * stairs.error:.2g} % of it, "
        f"down to {100 * LOWEST:g} %"
    )


def half_cosine(iteration, iterations):
    """The share of base_lr at an iteration: 1 at 0, 0 at the end (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * iteration / iterations)) / 2


@dataclass(frozen=True)
class Staircase:
    """Caffe's multistep policy. ratio: gamma. steps: its stepvalues, as a tuple of iterations.

    error: the largest |rate / cosine - 1| of the iterations whose cosine is LOWEST or more.
    """

    ratio: float
    steps: tuple
    error: float


@functools.cache
def staircase(iterations):
    """The Staircase that follows half_cosine most closely, of RATIOS."""
    return min((_stairs(ratio, iterations) for ratio in RATIOS), key=lambda found: found.error)


def _stairs(ratio, iterations):
    """The Staircase of one ratio: a step where the cosine is in the (geometric) middle of two."""
    count = math.ceil(math.log(LOWEST) / math.log(ratio))
    steps = [
        step
        for stair in range(1, count + 1)
        if (step := _first_below(ratio ** (stair - 0.5), iterations)) < iterations
    ]
    return Staircase(ratio, tuple(steps), _error(ratio, steps, iterations))


def _first_below(share, iterations):
    """The first iteration whose half_cosine is at most this share."""
    return math.ceil(iterations * math.acos(2 * share - 1) / math.pi)


def _error(ratio, steps, iterations):
    """Staircase.error of SGDSolver::GetLearningRate, which takes one step per iteration at most."""
    taken = []
    for step in steps:
        taken.append(max(step, taken[-1] + 1 if taken else 0))
    last = min(_first_below(LOWEST, iterations), iterations) - 1
    error = 0.0
    for stair, (first, end) in enumerate(zip([0, *taken], [*taken, iterations])):
        # The cosine falls, so that a stair is farthest from it at one of its ends.
        for iteration in (first, end - 1):
            exact = half_cosine(min(iteration, last), iterations)
            if first <= last:
                error = max(error, abs(ratio**stair / exact - 1))
    return error
