"""What `caffe train` printed, as numbers: losses, test accuracies, learning rate per iteration.

Lines begin `I1123 14:01:02.123456 pid file:line]`, with glog >= 0.6 `I20261123 ...`; only what
follows is read. Solver::Step prints `Iteration N (...), loss = mean over average_loss iterations`,
then each output of the training net for the last batch; Solver::Test prints `Iteration N, Testing
net (#0)`, then each output's mean over test_iter batches; the rate is `Iteration N, lr = ...`.
"""

import re
from pathlib import Path

import numpy as np

from data_prep.common.errors import UserError

PREFIX = re.compile(r"[IWEF](?:\d{4}){1,2} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w.-]+:\d+\] ")
LOSS = re.compile(r"Iteration (\d{1,18})(?: \([^)]*\))?, loss = (\S+)")
RATE = re.compile(r"Iteration (\d+), lr = (\S+)")
TEST = re.compile(r"Iteration (\d{1,18}), Testing net \(#0\)")
OTHER_TEST = re.compile(r"Iteration \d+, Testing net")
OUTPUT = re.compile(r"(Train|Test) net output #\d+: (\S+) = (\S+)( \(\* )?")

TOTAL = "loss"  # name of the solver's own sum of losses


class Log:
    """A parsed log.

    series  {(phase, output): (iterations int64, values float64)}, phase "train" or "test"; of an
            output with several values, all but the first are named `output[1]`, `output[2]` ...
    losses  names of outputs that enter the loss, in the order of the log
    """

    def __init__(self, points, losses):
        self.series = {
            key: (np.array(list(found), np.int64), np.array(list(found.values())))
            for key, found in points.items()
            if found
        }
        self.losses = losses

    def names(self, phase):
        """Outputs of a phase, in the order of the log."""
        return [name for where, name in self.series if where == phase]


def _forget_from(points, iteration):
    """A run that goes on from an older snapshot replaces what came after that snapshot."""
    for found in points.values():
        for late in [n for n in found if n >= iteration]:
            del found[late]


def _number(text):
    """float of a printed value; None where the line was cut in the middle or mixed with another."""
    try:
        return float(text)
    except ValueError:
        return None


def read(path):
    """The Log in a file. Raises UserError if it is no log of `caffe train` or has no iterations."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no log {path}") from None
    points, losses, known = {}, {}, False
    iteration, phase, seen, newest = None, None, {}, -1

    def put(where, name, text):
        if (value := _number(text)) is not None:
            points.setdefault((where, name), {})[iteration] = value

    for line in lines[:-1]:  # what follows the last line end may be half a line
        prefix = PREFIX.match(line)
        if not prefix:
            continue
        known, message = True, line[prefix.end() :].strip()
        header = LOSS.match(message) or TEST.match(message)
        if header:
            iteration, phase, seen = int(header[1]), "train" if header.re is LOSS else "test", {}
            if iteration < newest:
                _forget_from(points, iteration)
            newest = iteration
            if phase == "train":
                put("train", TOTAL, header[2])
        elif OTHER_TEST.match(message):
            phase = None
        elif rate := RATE.match(message):
            if iteration == int(rate[1]):
                put("train", "lr", rate[2])
        elif (output := OUTPUT.match(message)) and output[1].lower() == phase:
            name = output[2]
            seen[name] = seen.get(name, -1) + 1
            put(phase, f"{name}[{seen[name]}]" if seen[name] else name, output[3])
            if output[4]:
                losses[name] = True
    if not known:
        raise UserError(
            f"{path} is no log of `caffe train`: keep what it prints with "
            "`caffe train ... 2>&1 | tee LOG`"
        )
    log = Log(points, list(losses))
    if not log.series:
        raise UserError(f"{path} has no iterations yet: look again when training has begun")
    return log
