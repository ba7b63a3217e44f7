"""Runs the cells of a study, several at a time, until all have ended."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.common import progress as bars
from data_prep.common.cores import cores_of_process
from tools import caffe_program, live, solver_net
from tools.gpu import machine
from tools.parallel import parents
from tools.studies import progress, records, work

ROOT = Path(__file__).resolve().parents[2]
LOOK = 0.1  # seconds between two looks at the processes
SYNC = 2.0  # seconds between two syncs of the logs to the disk
SAY = 10.0  # seconds between two lines per training
GRACE = 120.0  # seconds for a training to save its snapshot after Ctrl-C


@dataclass
class _Active:
    """A cell that is running: its generator of steps and the process of the current one."""

    known: progress.Known
    steps: object
    device: work.Device
    begin: float
    step: work.Step = None
    process: subprocess.Popen = None
    output: object = None
    follower: live.Follower = None
    said: float = 0.0


@dataclass
class Outcome:
    """failed: {text of a cell: sentence}. interrupted: whether it was stopped by a signal."""

    failed: dict = field(default_factory=dict)
    interrupted: bool = False


def _gpu_names(numbers):
    """Of the GPUs, from NVIDIA's driver, in one text; "GPU" where it does not say."""
    try:
        names = [one["name"] for one in machine.gpus()]
        return " + ".join(names[number] for number in numbers)
    except (OSError, IndexError):
        return "GPU"


def devices(study, jobs, gpus):
    """[work.Device] of the cells that run at a time.

    The processor's cores are shared out; with GPUs, each cell takes `study.ranks` of them, and jobs
    is ignored.
    """
    cores = cores_of_process()
    if gpus:
        groups = [gpus[i : i + study.ranks] for i in range(0, len(gpus), study.ranks)]
        groups = [tuple(group) for group in groups if len(group) == study.ranks]
        threads = max(1, cores // max(1, len(gpus)))
        return [work.Device(threads, group, _gpu_names(group)) for group in groups]
    return [work.Device(max(1, cores // (jobs * study.ranks))) for _ in range(jobs)]


class Runner:
    """One `study.py run`.

    here: of machine.Machine. lock: descriptor that the commands inherit. shown: whether each
    training's progress is said. tensorboard: event_files.EventFiles or None.
    """

    def __init__(self, state, here, slots, lock, *, keep, shown=False, tensorboard=None):
        self._state, self._machine, self._lock, self._keep = state, here, lock, keep
        self._free, self._jobs = list(slots), len(slots)
        self._shown, self._tensorboard = shown, tensorboard
        self._active, self._outcome = [], Outcome()
        self._again = state.again()
        self._signals, self._synced = 0, 0.0
        self._costs = progress.Costs(state.wanted(), here.text, slots[0].name, len(slots))
        self._bar = None

    def run(self):
        """Outcome, when every cell has ended or failed, or after a signal."""
        old = {one: signal.signal(one, self._stop) for one in (signal.SIGINT, signal.SIGTERM)}
        done = sum(one.record is not None for one in self._state.wanted()) - len(self._again)
        try:
            with bars.bar(self._state.study.name, "cells", self._state.count(), done) as self._bar:
                self._loop()
        finally:
            for active in self._active:
                _kill(active.process)
            for number, handler in old.items():
                signal.signal(number, handler)
        return self._outcome

    def _loop(self):
        while True:
            while self._free and not self._signals and (known := self._next()):
                self._begin(known)
            if not self._active:
                break
            time.sleep(LOOK)
            for active in list(self._active):
                self._look(active)
            self._sync()
        self._outcome.interrupted = bool(self._signals)

    def _next(self):
        """A cell to evaluate again, or the first that is neither ended, running nor failed."""
        if self._again:
            return self._again.pop(0)
        busy = {active.known.place.key for active in self._active}
        for known in self._state.wanted():
            if known.record is None and not known.missing and known.place.key not in busy:
                if known.cell.text not in self._outcome.failed:
                    return known
        return None

    def _begin(self, known):
        device = self._free.pop(0)
        if known.record:
            steps = work.evaluate_again(known.place, known.record, device)
        else:
            steps = work.steps(
                known.place,
                self._state.identity(known.cell)[0],
                device,
                self._machine,
                self._keep,
            )
        active = _Active(known, steps, device, time.monotonic())
        self._active.append(active)
        self._advance(active, None)

    def _advance(self, active, status):
        """Send a status to the cell's steps and start its next command, or end it."""
        try:
            active.step = active.steps.send(status)
        except StopIteration as end:
            self._end(active)
            self._report(active, end.value)
            return
        except work.Failed as error:
            self._end(active)
            self._outcome.failed[active.known.cell.text] = str(error)
            self._say(f"FAILED {active.known.cell.text}: {error}")
            return
        self._start(active)

    def _end(self, active):
        self._active.remove(active)
        self._free.append(active.device)

    def _start(self, active):
        step = active.step
        active.output = open(step.output, "ab")
        active.output.write(b"\n" + live.BEGIN.encode() if active.output.tell() else b"")
        active.output.flush()
        environment = os.environ | {
            "OMP_NUM_THREADS": str(active.device.threads),
            "OPENBLAS_NUM_THREADS": str(active.device.threads),
            "GLOG_minloglevel": "0",  # the reports of the iterations
            "GLOG_logtostderr": "1",
        }
        active.process = subprocess.Popen(
            _program(step.words),
            stdin=subprocess.DEVNULL,
            stdout=active.output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            pass_fds=(self._lock,),
            preexec_fn=_ends_with_parent,
        )
        active.follower = None
        if step.what == "training":
            solver = solver_net.read_solver(active.known.place.solver)
            active.follower = live.Follower(step.output, solver.max_iter)

    def _look(self, active):
        if active.follower and active.follower.look():
            self._show(active)
        status = active.process.poll()
        if status is None:
            if self._signals and time.monotonic() > self._patience:
                _kill(active.process)
            return
        active.output.close()
        if self._signals:
            active.steps.close()
            self._end(active)
            return
        self._advance(active, status)

    def _show(self, active):
        now = time.monotonic()
        if self._tensorboard:
            self._tensorboard.update(active.known.place.pair, active.follower.log)
        if self._shown and now - active.said > SAY:
            active.said = now
            self._say(f"{active.known.cell.text}: {active.follower.text()}")

    def _report(self, active, record):
        """Say how a cell ended, and the time left."""
        if active.known.record:
            self._state.renew(active.known)
        else:
            self._costs.add(self._state.known(active.known.cell))
        self._bar.update()
        if record.status == records.DIVERGED:
            found = f"diverged at {record.diverged}"
        else:
            found = f"{record.scores.levels[0].own.top1:.2%} on {record.scores.split}"
        took = live.duration(time.monotonic() - active.begin)
        self._say(f"{active.known.cell.text}: {found}, {took}{self._left()}")

    def _left(self):
        wanted = self._state.wanted()
        missing = [one.cell for one in wanted if one.record is None and not one.missing]
        missing += self._state.later()
        seconds, unknown = self._costs.total(missing)
        if not missing:
            return ""
        more = f" and {unknown} cells of unknown cost" if unknown else ""
        return f"; about {live.duration(seconds)} left for {len(missing)} cells{more}"

    def _say(self, line):
        self._bar.write(line, file=sys.stderr)

    def _sync(self):
        """Logs must not lack what precedes a snapshot, also after a power cut."""
        if time.monotonic() - self._synced < SYNC:
            return
        self._synced = time.monotonic()
        for active in self._active:
            if not active.output.closed:
                os.fsync(active.output.fileno())

    def _stop(self, *_):
        """First signal: trainings save a snapshot and end. Second: they end at once."""
        self._signals += 1
        self._patience = time.monotonic() + (GRACE if self._signals == 1 else 0)
        for active in self._active:
            if active.process and active.process.poll() is None:
                saves = active.step.what == "training" and self._signals == 1
                active.process.send_signal(signal.SIGINT if saves else signal.SIGTERM)


def _program(words):
    """The words as a process: Python for the commands of this repository."""
    if words[0] == "caffe":
        return [caffe_program.path(), *words[1:]]
    return [sys.executable, str(ROOT / words[0]), *words[1:]]


def _ends_with_parent():
    """In the child: it is killed when this process ends, so that nothing writes behind its back."""
    parents.signal_at_parents_end(signal.SIGKILL)


def _kill(process):
    if process and process.poll() is None:
        process.kill()
        process.wait()
