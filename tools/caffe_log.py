"""Parses logs of `caffe train`: losses, test accuracies and learning rate per iteration.

Messages follow glog's prefix, `I1123 14:01:02.123456 pid file:line]` (from glog 0.6 on
`I20261123 ...`). Solver::Step prints `Iteration N (...), loss = mean over average_loss iterations`,
then each output of the training net for the last batch; Solver::Test prints `Iteration N, Testing
net (#0)`, then each output's mean over test_iter batches; the rate is `Iteration N, lr = ...`,
after the loss or, in 2014, before it. NVIDIA's Caffe adds `, m = ..., wd = ...` to the rate.

Additions of other programs are ignored: time stamps and names before the prefix (containers, job
systems, mpirun), terminal colors, carriage returns, the NULs of UTF-16. Lines without glog's prefix
(-log_prefix=false, other loggers) are read if they contain one of these messages.
"""

import re
from pathlib import Path

import numpy as np

from data_prep.common.errors import UserError

PREFIX = re.compile(r"([IWEF])(?:\d{4}){1,2} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w.-]+:\d+\] ?")
MESSAGE = re.compile(r"(?<!\w)(?:Iteration \d|(?:Train|Test) net output #|Test score #)")
LOSS = re.compile(r"Iteration (\d{1,18})(?: \([^)]*\))?, loss = (\S+)")
RATE = re.compile(r"Iteration (\d{1,18}), lr = ([^\s,]+)")
TEST = re.compile(r"Iteration (\d{1,18}), Testing net(?: \(#0\))?$")
OTHER_TEST = re.compile(r"Iteration \d+, Testing net")
OUTPUT = re.compile(r"(Train|Test) net output #\d+: ([^\t]+?) = (\S+)( \(\* )?")
SCORE = re.compile(r"(Test) (score #\d+): (\S+)")  # Caffe of 2014, where outputs have no names
STOPPED = re.compile(r"caffe train stopped: ")

COLORS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Names of processes whose lines one file holds: mpirun --tag-output and -prepend-rank, srun -l,
# docker compose, kubectl --prefix.
SOURCE = re.compile(r"\s*(\[\d+(?:,\d+)?\](?:<\w+>:?)?|\d+:(?=\s)|[\w.-]+ *\||\[pod/[^\]]+\])\s*")

TOTAL = "loss"  # name of the solver's own sum of losses
LARGEST = float(np.finfo(np.float32).max)  # Caffe computes in this precision
# SoftmaxWithLoss where the true class of every sample has probability 0: -log(FLT_MIN).
SATURATED = float(-np.log(np.finfo(np.float32).tiny))


class Log:
    """A parsed log.

    series   {(phase, output): (iterations int64, values float64)}, phase "train" or "test"; of an
             output with several values, all but the first are named `output[1]`, `output[2]` ...
    losses   names of outputs that enter the loss, in the order of the log
    stopped  the message with which Caffe ended after the last iteration; None if it did not
    others   names of other processes in the file, whose lines are left out
    """

    def __init__(self, points, losses, stopped=None, others=()):
        self.series = {
            key: (np.array(list(found), np.int64), np.array(list(found.values())))
            for key, found in points.items()
            if found
        }
        self.losses = losses
        self.stopped = stopped
        self.others = tuple(others)

    def names(self, phase):
        """Outputs of a phase, in the order of the log."""
        return [name for where, name in self.series if where == phase]

    def diverged(self):
        """(iteration, reason) at which training first diverged, or None.

        It has diverged if a loss is nan or inf, or has the largest value of Caffe's softmax loss.
        """
        found = []
        for (phase, name), (x, y) in self.series.items():
            if name != TOTAL and name not in self.losses:
                continue
            what = name if name == TOTAL and phase == "train" else f"{name} ({phase})"
            found += [(int(n), f"{what} is not finite") for n in x[~np.isfinite(y)][:1]]
            if name in self.losses:
                full = x[np.abs(y - SATURATED) < 1e-4][:1]  # six digits are printed
                found += [
                    (int(n), f"{what} is {SATURATED:.4f}, the probability of each class is 0")
                    for n in full
                ]
        return min(found, default=None, key=lambda one: one[0])


class Reader:
    """Reads the lines of a log in turn."""

    def __init__(self):
        self.points, self.losses = {}, {}
        self.known = False  # whether any line was Caffe's
        self.stopped = self.source = None
        self.others = {}
        self._iteration = self._phase = self._rate = None
        self._newest, self._seen = -1, {}

    def log(self):
        """The Log of the lines so far."""
        return Log(self.points, list(self.losses), self.stopped, self.others)

    def line(self, text):
        if "\x1b" in text:
            text = COLORS.sub("", text)
        starts = [*PREFIX.finditer(text)]
        if starts:  # two messages in a line: another process printed in between
            self.known = True
            ends = [start.start() for start in starts[1:]] + [len(text)]
            for start, end in zip(starts, ends):
                message = text[start.end() : end]
                source = _source(text[: starts[0].start()]) or _source(message)
                self._message(message, source, start[1])
        elif (found := MESSAGE.search(text)) or (found := STOPPED.search(text)):
            self.known = True
            self._message(text[found.start() :], _source(text[: found.start()]), "I")

    def _message(self, text, source, severity):
        found = MESSAGE.search(text)
        message = text[found.start() :].strip() if found else text.strip()
        header = LOSS.match(message) or TEST.match(message)
        if header and self._iteration is None:
            self.source = source
        if source != self.source and self._iteration is not None:
            if header:
                self.others[source or "no name"] = True
            return
        if header:
            self._header(header)
        elif OTHER_TEST.match(message):
            self._phase = None
        elif rate := RATE.match(message):
            self._rate = int(rate[1]), rate[2]
            self._put_rate()
        elif output := OUTPUT.match(message) or SCORE.match(message):
            self._output(output)
        elif severity == "F" or STOPPED.match(message):
            self.stopped = message

    def _header(self, header):
        self._iteration, self._phase = int(header[1]), "train" if header.re is LOSS else "test"
        self._seen, self.stopped = {}, None
        if self._iteration < self._newest:
            self._forget()
        self._newest = self._iteration
        if self._phase == "train":
            self._put("train", TOTAL, header[2])
        self._put_rate()

    def _forget(self):
        """Drop values that a run resumed from an older snapshot computes again."""
        for found in self.points.values():
            while found and next(reversed(found)) >= self._iteration:  # in ascending order
                found.popitem()

    def _put_rate(self):
        if self._rate and self._rate[0] == self._iteration:
            self._put("train", "lr", self._rate[1])
            self._rate = None

    def _output(self, output):
        if output[1].lower() != self._phase:
            return
        name = output[2]
        self._seen[name] = self._seen.get(name, -1) + 1
        number = self._seen[name]
        if (self._phase, name, number) != ("train", TOTAL, 0):  # the solver's own has this name
            self._put(self._phase, f"{name}[{number}]" if number else name, output[3])
        if output.re is OUTPUT and output[4]:
            self.losses[name] = True

    def _put(self, phase, name, text):
        if (value := number_of(text)) is not None:
            self.points.setdefault((phase, name), {})[self._iteration] = value


def _source(text):
    """The name of the process at the start of the text, or None."""
    found = SOURCE.match(text) if text else None
    return found and found[1]


def number_of(text):
    """float of a printed value; None if the text is not a number (a truncated or mixed line).

    Windows' C library prints 1.#INF, 1.#QNAN, -1.#IND and nan(ind), also with rounded digits.
    """
    try:
        value = float(text)
    except ValueError:
        found = re.fullmatch(r"([+-]?)(?:\d\.#(INF)?\w*|nan\(\w*\))", text, re.IGNORECASE)
        return found and float(f"{found[1]}inf" if found[2] else "nan")
    return value if abs(value) <= LARGEST or value != value else float(np.copysign(np.inf, value))


def lines(data):
    """The complete lines of a log's bytes; text after the last line end may be half a line."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # PowerShell's `>` and tee
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError:  # other text was appended
            data = data[2:]
    data = data.replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf")  # also UTF-16 without its mark
    for line in re.split(rb"[\r\n]+", data)[:-1]:
        try:
            yield line.decode()
        except UnicodeDecodeError:
            yield line.decode("latin-1")


def read(path):
    """The Log in a file. Raises UserError if it is not a log of `caffe train` or has no iterations.

    If a file holds several processes, the one that prints an iteration first is read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"log {path} not found (current folder: {Path.cwd()})") from None
    except OSError as error:
        raise UserError(f"log {path} can't be read: {error.strerror}") from None
    reader = Reader()
    for line in lines(data):
        reader.line(line)
    if not reader.known:
        raise UserError(
            f"{path} is not a log of `caffe train`: keep what it prints with "
            "`caffe train ... 2>&1 | tee LOG`"
        )
    log = reader.log()
    if not log.series:
        reason = f" ({reader.stopped})" if reader.stopped else ": wait until training has begun"
        raise UserError(f"{path} has no iterations{reason}")
    return log
