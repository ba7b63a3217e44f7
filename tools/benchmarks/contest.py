"""Runs engines turn by turn, each in a process of its own, and compares what they compute."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3  # relative, of losses and scores: engines add in different orders
TURN = 0.5  # seconds, at least one step
PAUSE = 0.05  # seconds after a turn, in which idle threads fall asleep
SPARE_CORES = (
    0.25  # CPU time beyond an engine's threads, per second: of other threads, such as logs
)
THREADS = re.compile(r"(OMP|OPENBLAS|GOTO|MKL|BLIS|NUMEXPR)_(NUM_THREADS|DYNAMIC)")


class EngineError(Exception):
    """An engine that can't be compared. The message is the reason."""


class Runner:
    """A process of tools/benchmarks/engines.py. Use as a context manager, which ends it."""

    def __init__(self, specification, environment):
        """environment: variables beside this process's own, without those of thread counts."""
        self._specification = specification
        self._errors = tempfile.TemporaryFile()
        own = {name: value for name, value in os.environ.items() if not THREADS.fullmatch(name)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmarks.engines", json.dumps(asdict(specification))],
            cwd=ROOT,
            env=own | {"OMP_NUM_THREADS": str(specification.threads)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except BrokenPipeError:  # it has ended, and did not read all
                continue

    def ask(self, command):
        """The answer, a dict. Raises EngineError with the process's last words if it ends."""
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(self._last_words())
        return json.loads(line)

    def turn(self, seconds=TURN):
        """{"seconds": of a step, median; "cores"; "memory"; "others": CPU seconds of other
        processes per second} of one turn."""
        start, used = time.perf_counter(), _busy()
        answer = self.ask(f"turn {seconds}")
        passed, used = time.perf_counter() - start, _busy() - used
        threads = self._specification.threads
        if seconds and answer["cores"] > threads + SPARE_CORES:
            raise EngineError(f"it uses {answer['cores']:.1f} cores with {threads} threads")
        time.sleep(PAUSE)
        return answer | {
            "seconds": float(np.median(answer["seconds"])),
            "others": max(0.0, used / passed - answer["cores"]),
        }

    def _last_words(self):
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
        return f"it ended with status {status}" + (" (memory?)" if status == -9 else "")


def _busy():
    """CPU seconds that all processes have used, and those that a host took for others."""
    with open("/proc/stat", encoding="ascii") as lines:
        user, nice, system, idle, waiting, *more = map(int, lines.readline().split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def difference(work, expected, found):
    """Difference of two engines' values, relative to ours: of the losses, the largest beside the
    largest loss (a single image is learned in one step, and its next loss is 0); of the scores, by
    length. Infinite where they are not as many, not finite, or all ours are 0."""
    expected, found = np.array(expected, float), np.array(found, float)
    if expected.shape != found.shape or not np.isfinite([expected, found]).all():
        return float("inf")
    order = np.inf if work == "train" else 2
    length = np.linalg.norm(expected, order)
    return float(np.linalg.norm(found - expected, order) / length) if length else float("inf")


def check_equal(work, expected, found):
    """The difference of the values. Raises EngineError if it is larger than TOLERANCE."""
    error = difference(work, expected, found)
    if error > TOLERANCE:
        what = "losses" if work == "train" else "scores"
        numbers = " and ".join(" ".join(f"{x:.6g}" for x in part[:3]) for part in (found, expected))
        raise EngineError(
            f"it does other work: its {what} differ from ours by {error:.2g} of them ({numbers})"
        )
    return error


def alternate(runners, turns):
    """{name: [answers of turns]} of runners, {name: Runner}, in turn; the first turns warm up.

    Runners that fail are left out of the answer; {name: reason} of them is the second value.
    """
    answers, failed = {name: [] for name in runners}, {}
    for number in range(turns + 1):
        for name, runner in runners.items():
            if name in failed:
                continue
            try:
                answer = runner.turn()
            except EngineError as error:
                failed[name] = str(error)
                continue
            if number:
                answers[name].append(answer)
    return {name: found for name, found in answers.items() if name not in failed}, failed
