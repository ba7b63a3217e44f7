"""Follows the log of a training while Caffe writes it: position, speed, losses and accuracies."""

import re
import statistics
from pathlib import Path

from tools import caffe_log

SPEED = re.compile(r"Iteration (\d{1,18}) \(([0-9.eE+-]+) iter/s, ")
STAMP = re.compile(r"^[IWEF](?:\d{4}){1,2} (\d\d):(\d\d):(\d\d\.\d+) ")
DONE = "Optimization Done."
DAY = 24 * 60 * 60
RECENT = 10  # reports over which the speed is averaged
ACCURACY = "accuracy"
BEGIN = "=== a training begins or resumes\n"  # a line of the tools here, between two of one log


class Follower:
    """One log. look() reads what is new; `done` says whether Caffe reported the end.

    max_iter: of the solver, for the time left; None: unknown.
    """

    def __init__(self, path, max_iter=None):
        self.path, self.max_iter = Path(path), max_iter
        self.reader = caffe_log.Reader()
        self.iteration, self.done, self.seconds = None, False, 0.0
        self._offset, self._rest, self._stamp = 0, b"", None
        self._rates, self._undisturbed, self._tested = {}, {}, False  # {iteration: per second}

    def look(self):
        """Read what was appended since the last look; whether there was anything."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return False
        self._offset += len(new)
        whole, end, self._rest = (self._rest + new).rpartition(b"\n")
        for line in caffe_log.lines(whole + end) if end else ():
            self.line(line)
        return bool(end)

    def line(self, line):
        """Take one line, without its end."""
        self._time(line)
        self.reader.line(line)
        if found := SPEED.search(line):
            self.iteration, self.done = int(found[1]), False
            rate = caffe_log.number_of(found[2]) or 0.0
            for rates in (self._rates, self._undisturbed):
                for later in [n for n in rates if n >= self.iteration]:
                    del rates[later]
            if rate > 0:
                self._rates[self.iteration] = rate
                if not self._tested:
                    self._undisturbed[self.iteration] = rate
            self._tested = False
        elif found := caffe_log.LOSS.search(line):
            self.iteration, self.done = int(found[1]), False
        elif "Testing net" in line:
            self._tested = True
        if DONE in line:
            self.done = True

    def _time(self, line):
        """Add the time since the last line of the same process."""
        if line.startswith(BEGIN.strip()):
            self._stamp = None
        if found := STAMP.match(line):
            hours, minutes, seconds = found.groups()
            stamp = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            if self._stamp is not None:
                passed = (stamp - self._stamp) % DAY
                self.seconds += passed if passed < DAY / 2 else 0  # threads print out of order
            self._stamp = stamp

    @property
    def log(self):
        """caffe_log.Log of the lines so far."""
        return self.reader.log()

    @property
    def speed(self):
        """Iterations per second, the median of the reports; None before two.

        Reports over times with a test count only where there are no others.
        """
        rates = self._undisturbed or self._rates
        return statistics.median(rates.values()) if rates else None

    @property
    def left(self):
        """Seconds to max_iter at the speed of the last reports; None where it is unknown."""
        recent = list(self._rates.values())[-RECENT:]
        if not recent or self.max_iter is None or self.done:
            return None
        return max(0, self.max_iter - self.iteration) / statistics.median(recent)

    def newest(self, phase):
        """{output: its newest value} of a phase, "train" or "test"."""
        series = self.log.series
        return {name: float(y[-1]) for (where, name), (_, y) in series.items() if where == phase}

    def text(self):
        """The state in one line."""
        if self.iteration is None:
            return "no iteration yet"
        of = "" if self.max_iter is None else f"/{self.max_iter}"
        of += ", done" if self.done else ""
        parts = [f"iteration {self.iteration}{of}"]
        if self.speed:
            parts.append(f"{self.speed:.3g} it/s")
        if self.left is not None:
            parts.append(f"{duration(self.left)} left")
        return ", ".join(filter(None, (*parts, self.figures())))

    def figures(self):
        """The newest losses, the total first, and the newest accuracies on test images."""
        train, test = self.newest("train"), self.newest("test")
        losses = [caffe_log.TOTAL, *(name for name in self.reader.losses if name in train)]
        parts = [
            " ".join(f"{_short(one)} {train[one]:.4g}" for one in losses if one in train),
            " ".join(f"{one} {value:.1%}" for one, value in test.items() if ACCURACY in one),
        ]
        return ", ".join(filter(None, parts))


def _short(name):
    return name.removeprefix("loss_")


def duration(seconds):
    """Seconds in words: 42 s, 3 min, 2 h 05 min, 3 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
