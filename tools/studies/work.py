"""One cell from its prototxts to its record, as steps that can be interrupted anywhere.

Everything is decided from files: what the last run left, complete or not, is where the next begins.
"""

import datetime
import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.errors import UserError
from data_prep.common.text import parse_json, read_text
from data_prep.common.typed import from_json, to_json
from tools import caffe_log, live, results, snapshots, solver_net
from tools.studies import cells, code_version, convergence, generated, measures, records

# Of an ended cell's snapshots; "model": the final weights, but for trainings that served a choice.
KEEP = ("all", "model", "none")
BEGUN = "cell.json"
FINE_ACCURACY = "accuracy_fine"
LAST_WORDS = 3  # lines of a log in a message
# What Caffe and the layers here say when a loss, its features or the weights are not finite.
NOT_FINITE = re.compile(r"\b(nan|inf|not finite|diverged)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One command. output: file that takes what it prints; appended to. what: in messages."""

    what: str
    words: list
    output: Path


@dataclass(frozen=True)
class Device:
    """Where a cell runs. gpus: numbers; (): the CPU, with `threads`."""

    threads: int
    gpus: tuple = ()
    name: str = "CPU"


class Failed(Exception):
    """The cell failed; the message is one sentence with the log's last words."""


@dataclass(frozen=True)
class _Begun:
    """cell.json: written when net and solver are complete."""

    key: str
    code: str
    generated: str
    layers: tuple[str, ...] = ()


def begun(work):
    """The _Begun of a work folder, or None."""
    path = work / BEGUN
    if not path.is_file():
        return None
    what = f"{path} was written by no study"
    return from_json(_Begun, parse_json(read_text(path, "the cell"), what), what)


def steps(place, identity, device, machine, keep="model"):
    """Generator of the Steps of a cell; send it each exit status. Returns the Record.

    place: cells.Files. identity: {data, weights: digest}. machine: of machine.Machine.
    Raises Failed.
    """
    before = begun(place.work)
    if not (before and before.key == place.key and generated.unchanged(before, place)):
        _forget(place, before)
        place.work.mkdir(parents=True, exist_ok=True)
        yield from _run("make_prototxt.py", cells.make_command(place), place.work / "make.log")
        made = generated.of_files(place)
        code = code_version.of_modules(made.layers)
        content = to_json(_Begun(place.key, code, made.digest, made.layers))
        files.write_whole(place.work / BEGUN, json.dumps(content) + "\n")
    solver = solver_net.read_solver(place.solver)
    final = Path(f"{solver.snapshot_prefix}_iter_{solver.max_iter}{snapshots.MODEL}")
    commands = [cells.make_command(place), cells.train_command(place, device.gpus)]
    diverged = None
    if snapshots.problem(final):
        newest = snapshots.newest(solver)
        words = cells.train_command(place, device.gpus, newest and newest.state)
        status = yield Step("training", words, place.log)
        if status:
            diverged = _divergence(place.log)
            if not diverged:
                raise Failed(f"the training ended with status {status}: {last_words(place.log)}")
        elif snapshots.problem(final):
            raise Failed(f"the training stopped before its end: {last_words(place.log)}")
    scores = None
    if not diverged:
        commands.append(cells.evaluate_command(place, final, device.gpus))
        scores = yield from _evaluate(place, final, device)
    follower = live.Follower(place.log)
    follower.look()
    made = begun(place.work)
    batch = _batch(solver, place.cell.study.ranks)
    cell = place.cell
    record = records.Record(
        format=records.FORMAT,
        key=place.key,
        code=made.code,
        generated=made.generated,
        layers=made.layers,
        status=records.DIVERGED if diverged else records.FINISHED,
        study=cell.study.name,
        data=cell.row.data.name,
        net=cell.row.net.name,
        variant=cell.row.variant,
        role=cell.role,
        seed=cell.seed,
        options=dict(cell.options),
        commands=tuple(map(shlex.join, commands)),
        commit=machine.commit,
        machine=machine.text,
        device=device.name,
        threads=device.threads,
        ended=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        data_sha256=identity["data"],
        weights_sha256=identity["weights"],
        iterations=solver.max_iter,
        batch=batch,
        seconds=round(follower.seconds, 3),
        images_per_second=follower.speed and round(follower.speed * batch, 3),
        model_sha256=None if diverged else files.sha256(final),
        scores=scores,
        curve=_curve(follower.log, cell.watched),
        diverged=diverged,
    )
    # The final weights are removed last: without them, a kill in between would cost the training.
    if keep != "all":
        _clean(solver, final)
    records.write(place.record, record)
    if keep == "none" or (keep == "model" and cell.role == cells.SELECT):
        final.unlink(missing_ok=True)
    return record


def evaluate_again(place, record, device):
    """Generator of the Steps, as `steps`, that score a finished cell's final weights again.

    Returns the Record with the new scores: measures that it lacked. Raises Failed.
    """
    final = place.weights(record.iterations)
    if files.sha256(final) != record.model_sha256:
        raise Failed(f"{final} holds other weights than those of {place.record}: move it away")
    scores = yield from _evaluate(place, final, device)
    record = replace(record, scores=scores)
    records.write(place.record, record)
    return record


def _evaluate(place, model, device):
    """Yields the Step that scores weights; returns records.Scores."""
    words = cells.evaluate_command(place, model, device.gpus)
    yield from _run("evaluate.py", words, place.work / "evaluate.log")
    return _scores(place)


def _run(what, words, output):
    """Yields the Step; raises Failed if it fails."""
    status = yield Step(what, words, output)
    if status:
        raise Failed(f"{what} ended with status {status}: {last_words(output)}")


def _forget(place, before):
    """Remove what an earlier version of the code left of this cell.

    Raises Failed for snapshots that no study made.
    """
    if not place.solver.is_file():
        return
    solver = solver_net.read_solver(place.solver)
    there = snapshots.of_solver(solver)
    if there and before is None:
        raise Failed(f"{place.work} has snapshots, but no {BEGUN}: move the folder away")
    for path in (place.log, place.work / BEGUN):
        path.unlink(missing_ok=True)
    for snapshot in there:
        snapshot.model.unlink(missing_ok=True)
        snapshot.state.unlink(missing_ok=True)


def _clean(solver, final):
    """Remove the snapshots of an ended cell, but for its final weights."""
    for snapshot in snapshots.of_solver(solver):
        snapshot.state.unlink(missing_ok=True)
        if snapshot.model != final:
            snapshot.model.unlink(missing_ok=True)


def _batch(solver, ranks):
    """Images per iteration."""
    net = solver_net.read_net(solver)
    sizes = [layer.data_param.batch_size for layer in net.layer if layer.type == "Data"]
    return sizes[0] * max(1, solver.iter_size) * ranks


def _divergence(log):
    """What diverged, and when, in one clause; None if the log names another reason."""
    try:
        read = caffe_log.read(log)
    except UserError:
        return None
    if found := read.diverged():
        return f"iteration {found[0]}: {found[1]}"
    words = last_words(log)
    return words if NOT_FINITE.search(words) else None


def last_words(log):
    """The last lines that a command printed, in one line; Caffe's own last sentence alone."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "it printed nothing"
    lines = [caffe_log.PREFIX.sub("", line).strip() for line in text.splitlines()]
    if lines and caffe_log.STOPPED.match(lines[-1]):
        return lines[-1]
    return " / ".join([line for line in lines if line][-LAST_WORDS:]) or "it printed nothing"


def _scores(place):
    """records.Scores of the evaluation of a cell."""
    result = results.read(place.result)
    predictions = results.read_predictions(place.result, result)
    levels = []
    for level, answers in zip(result.levels, predictions.levels):
        own, ancestor = answers.predicted, answers.from_fine
        levels.append(
            records.Level(
                level.level,
                None if own is None else records.Answer.of(own == answers.true),
                None if ancestor is None else records.Answer.of(ancestor == answers.true),
            )
        )
    return records.Scores(
        result.split,
        result.images,
        cells.digest(np.asarray(predictions.keys).tolist()),
        tuple(levels),
        result.seconds,
        measures.measured(result),
    )


def _curve(log, split):
    """records.Curve of the tests during the training; None without any."""
    if split is None or ("test", FINE_ACCURACY) not in log.series:
        return None
    iterations, accuracy = log.series["test", FINE_ACCURACY]
    slope, p = convergence.trend(iterations, accuracy)
    return records.Curve(split, tuple(iterations.tolist()), tuple(accuracy.tolist()), slope, p)
