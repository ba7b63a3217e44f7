"""Puts the sections together and renders the page; names from users are escaped by the template."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from tools.evaluated import Evaluated
from tools.metrics.calibration import BINS

from . import charts, confusions, curves, neighborhood, photographs
from .tree import confusions as confused, recalls, tree

FOLDER = Path(__file__).resolve().parent
MARK = b'<meta name="generator" content="tools/report.py">'  # in the head of each page
PAIRS = 6  # worst confusions of a run
NEIGHBORS = 6  # of a query
TIMES = 4  # as many photographs of images on which two runs differ as in other groups


@dataclass(frozen=True)
class Run:
    """An evaluation as the page shows it. features: memory map N x D, or None."""

    name: str
    color: str
    found: Evaluated
    features: np.ndarray | None

    @property
    def result(self):
        return self.found.result


@dataclass(frozen=True)
class Options:
    """photographs: of each group, 0 for none; queries: number of random ones; asked: rows of the
    images that were named; seed of the random ones.
    """

    photographs: int
    queries: int
    asked: tuple
    seed: int


def names_of(all_evaluated):
    """The experiments' names, with the files' paths where two are the same."""
    names = [one.result.experiment for one in all_evaluated]
    if len(set(names)) < len(names):
        names = [f"{name} ({one.path})" for name, one in zip(names, all_evaluated)]
    return names


def render(runs, logs, flows, options):
    """The page, bytes.

    runs: [Run] of the same images; logs: ([caffe_log.Log], names); flows: {name: read_flows}.
    """
    first = runs[0].found
    answers = first.predictions.levels
    shown = tree(first.hierarchy, np.stack([one.true for one in answers], axis=1))
    worst = [(run, confusions.worst(run.found, PAIRS, options.photographs)) for run in runs]
    differences = [_difference(runs[0], run, TIMES * options.photographs) for run in runs[1:]]
    asked = options.asked or neighborhood.sample(first, options.queries, options.seed)
    neighbors = [
        (run, [_query(run.found, one) for one in _queries(run, asked)])
        for run in runs
        if run.features is not None and options.photographs
    ]
    maps = {run.name: _map(run, shown) for run in runs if run.features is not None}
    maps = {name: one for name, one in maps.items() if one}
    context = {
        "title": " and ".join(run.name for run in runs[:3]) + (" ..." if runs[3:] else ""),
        "runs": runs,
        "first": first.result,
        "split": first.result.split,
        "accuracy": _accuracy(runs),
        "has_figures": any(run.result.decodings for run in runs),
        "ranking": _ranking(runs),
        "calibration": _calibration(runs),
        "bins": BINS,
        "curves": curves.of_logs(*logs) if logs[0] else [],
        "diverged": any(log.diverged() for log in logs[0]),
        "logs": [(name, charts.COLORS[n % len(charts.COLORS)]) for n, name in enumerate(logs[1])],
        "flows": [curves.of_flows(values, name) for name, values in flows.items()],
        "worst": worst if options.photographs else [],
        "differences": differences,
        "neighbors": neighbors,
        "maps": list(maps),
        "notes": _notes(runs, logs, options),
        "data": _data(runs, shown, list(maps.values())),
        "chart": charts,
    }
    context["photos"] = photographs.uris(
        first.images, first.predictions.keys, _rows(worst, differences, neighbors, options)
    )
    context["sections"] = _sections(context)
    return _html(context)


def _html(context):
    style, script = ((FOLDER / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # The browser runs and loads only what has these checksums, even if a name were taken as markup.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template("page.html.jinja").render(
        **context, style=Markup(style), script=Markup(script), policy=policy
    )
    return page.encode("utf-8", "backslashreplace")


def _hash(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _accuracy(runs):
    """[(level, [(Run, name of the answer, Share)])]."""
    fine = runs[0].result.levels[0].level
    found = []
    for j, level in enumerate(runs[0].result.levels):
        rows = [
            (run, name, share)
            for run in runs
            for name, share in (
                ("own classifier", run.result.levels[j].head),
                (f"from {fine}", run.result.levels[j].from_fine),
            )
            if share
        ]
        found.append((level.level, rows))
    return found


def _ranking(runs):
    """[(Run, Level, Retrieval or None)] of the runs that have these figures."""
    return [
        (run, level, {one.level: one for one in run.result.retrieval or ()}.get(level.level))
        for run in runs
        if run.result.decodings
        for level in run.result.levels
    ]


def _calibration(runs):
    """A reliability Chart per level with classifiers."""
    found = []
    for j, level in enumerate(runs[0].result.levels):
        known = [(run, run.result.levels[j].calibration) for run in runs]
        known = [(run, one) for run, one in known if one]
        if known:
            lines = [
                (
                    [bin.confidence for bin in one.bins],
                    [bin.accuracy for bin in one.bins],
                    {"color": run.color, "opacity": 0.7, "wide": 1, "radii": _radii(one)},
                )
                for run, one in known
            ]
            legend = [(f"ECE {one.ece.value:.1%}", run.color, "") for run, one in known]
            found.append(
                charts.chart(
                    level.level,
                    lines,
                    x_range=(0, 1),
                    y_range=(0, 1),
                    percent=True,
                    legend=tuple(legend),
                    diagonal=True,
                )
            )
    return found


def _radii(calibration):
    """Circles whose areas are the bins' numbers of images, the smallest visible."""
    images = np.array([bin.images for bin in calibration.bins])
    return np.maximum(1.5, 9 * np.sqrt(images / images.sum()))


def _difference(first, second, photographs):
    found = confusions.difference(first.found, second.found, photographs)
    sides = []
    if found:
        pairs = ((first, second, found.first_rows), (second, first, found.second_rows))
        for right, wrong, rows in pairs:
            captions = [(row, _taken(wrong.found, row)) for row in rows]
            sides.append((right.name, wrong.name, captions))
    return {"a": first, "b": second, "found": found, "sides": sides}


def _taken(found, row):
    """The true class of an image and what a run that errs took it for."""
    answers, names = found.predictions.levels[0], found.hierarchy.names[0]
    return f"{names[answers.true[row]]}, not {names[answers.predicted[row]]}"


def _queries(run, asked):
    return neighborhood.queries(run.features, asked, NEIGHBORS)


def _query(found, query):
    """What the template shows of a neighborhood.Query."""
    labels = np.stack([one.true for one in found.predictions.levels], axis=1)
    names, own = found.hierarchy.names[0], labels[query.row]
    near = []
    for row, likeness in zip(query.neighbors, query.likeness):
        kind = "right" if labels[row, 0] == own[0] else ""
        if not kind and len(own) > 1 and labels[row, 1] == own[1]:
            kind = "near"
        near.append((row, f"{likeness:.2f} {names[labels[row, 0]]}", kind))
    return {"row": query.row, "name": names[own[0]], "near": near}


def _map(run, shown):
    """The data of a map for page.js, or None."""
    found = neighborhood.principal(run.features)
    if found is None:
        return None
    answers, fine = run.found.predictions.levels[0], shown.fine
    x, y = np.rint(500 + 500 * found.points.T).astype(int).tolist()
    part = (
        f"{len(found.rows)} of {run.result.images} images; "
        if (len(found.rows) < run.result.images)
        else ""
    )
    return {
        "x": x,
        "y": y,
        "true": [fine[c] for c in answers.true[found.rows]],
        "said": [fine[c] for c in answers.predicted[found.rows]],
        "keys": [str(key) for key in run.found.predictions.keys[found.rows]],
        "about": f"{part}{sum(found.shares):.0%} of the features' variance",
    }


def _data(runs, shown, maps):
    """What page.js reads."""
    tables = []
    for run in runs:
        own, fine = recalls(shown, run.found)
        tables.append(
            {
                "name": run.name,
                "color": run.color,
                "own": _numbers(own),
                "fine": _numbers(fine),
                "pairs": confused(shown, run.found),
            }
        )
    sizes = runs[0].found.hierarchy.sizes
    coarse = max((j for j, size in enumerate(sizes) if size > 1), default=0)
    return {
        "levels": list(runs[0].found.hierarchy.levels),
        "mapLevel": coarse,
        "colors": charts.COLORS,
        "maps": maps,
        "tree": {
            "names": shown.names,
            "levels": shown.levels,
            "parents": shown.parents,
            "images": shown.images.tolist(),
            "runs": tables,
        },
    }


def _numbers(values):
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _rows(worst, differences, neighbors, options):
    """Rows of all photographs on the page."""
    if not options.photographs:
        return []
    rows = [row for _, pairs in worst for one in pairs for row in one.mistaken + one.examples]
    rows += [row for one in differences for _, _, part in one["sides"] for row, _ in part]
    for _, queries in neighbors:
        for query in queries:
            rows += [query["row"], *(row for row, _, _ in query["near"])]
    return rows


def _notes(runs, logs, options):
    """Why sections are missing, a sentence each."""
    notes = []
    if not logs[0]:
        notes.append("Curves of the training: give its logs with --log.")
    for run in runs:
        if not run.result.decodings:
            notes.append(
                f"Distances, calibration and retrieval of {run.name}: an earlier version evaluated "
                "it; evaluate again."
            )
        if run.features is None:
            notes.append(
                f"Neighbors and map of {run.name}: they need evaluate.py --features, and its file "
                "beside the result."
            )
    if not options.photographs:
        notes.append("Photographs: --photographs is 0.")
    return notes


def _sections(context):
    """[(id, title)] of the sections that the page has."""
    every = [
        ("runs", "Runs", True),
        ("accuracy", "Accuracy", True),
        ("curves", "Training", context["curves"] or context["flows"]),
        ("confusions", "Confusion matrix", True),
        ("tree", "Tree", True),
        ("mistakes", "Worst confusions", context["worst"]),
        ("differences", "Differences", context["differences"]),
        ("features", "Feature", context["neighbors"] or context["maps"]),
    ]
    return [(name, title) for name, title, there in every if there]
