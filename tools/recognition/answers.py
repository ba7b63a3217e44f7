"""The answer for one photograph, and how answers are written: text, TSV and JSON lines.

JSON has one object per line, an Answer, so that thousands are written as they are computed and read
line by line. TSV has a line per photograph; in its cells, as in the names of classes and files
there, backslash, tab and line breaks are written as \\\\, \\t, \\n, \\r.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from data_prep.common import text_table, typed
from data_prep.common.errors import UserError
from data_prep.common.text import parse_json, read_table, read_text
from tools.recognition import decode

MOST_LINE = 1 << 20  # bytes of a line that are looked at
DIGITS = 7  # of probabilities in JSON, decimals; a float32 has no more


@dataclass(frozen=True)
class LevelAnswer:
    """The answer on one level. Probabilities are in 0..1.

    predicted    the class that was decided for
    probability  of that class, by the level's own classifier; None: the level has none
    from_fine    of that class, as the sum over the fine classes below it by the fine classifier
    own          the class that the level's own classifier prefers; None: the level has none
    """

    level: str
    predicted: str
    from_fine: float
    probability: float | None = None
    own: str | None = None


@dataclass(frozen=True)
class Alternative:
    """One path of the tree, fine to coarse, in the order of the decision.

    probability  of its fine class, by the fine classifier
    joint        product of all classifiers' probabilities on the path, divided by the sum over all
                 paths
    distance     expected number of levels on which the truth differs from the path
    """

    path: tuple[str, ...]
    probability: float
    joint: float
    distance: float


@dataclass(frozen=True)
class Answer:
    """The answer for a photograph.

    image   name of the file
    levels  fine to coarse
    best    the k best paths, the best first
    agree   whether all classifiers' classes lie on one path; None: there is one classifier only
    """

    image: str
    levels: tuple[LevelAnswer, ...]
    best: tuple[Alternative, ...]
    agree: bool | None = None


def of(names, hierarchy, probabilities, rule, top):
    """[Answer] of N images. names: N strings; the rest as decode.decide."""
    decided = decode.decide(hierarchy, probabilities, rule, top)
    preferred = {level: rows.argmax(axis=1) for level, rows in decided.own.items()}
    found = []
    for i, name in enumerate(names):
        levels = []
        for j, level in enumerate(hierarchy.levels):
            number = decided.path[i, j]
            own = decided.own.get(j)
            levels.append(
                LevelAnswer(
                    level,
                    hierarchy.names[j][number],
                    float(decided.from_fine[j][i, number]),
                    None if own is None else float(own[i, number]),
                    None if own is None else hierarchy.names[j][preferred[j][i]],
                )
            )
        best = [
            Alternative(
                tuple(classes[c] for classes, c in zip(hierarchy.names, hierarchy.labels[fine])),
                float(decided.own[0][i, fine]),
                float(decided.joint[i, k]),
                float(decided.distance[i, k]),
            )
            for k, fine in enumerate(decided.best[i])
        ]
        agree = None if decided.agree is None else bool(decided.agree[i])
        found.append(Answer(name, tuple(levels), tuple(best), agree))
    return found


class Text:
    """For people: a paragraph per photograph."""

    suffixes = (".txt",)
    start = "# answers of tools/predict.py\n"

    def __init__(self, levels, top):
        self.top = top

    def one(self, answer):
        fine = answer.levels[0].level
        rows = []
        for number, level in enumerate(answer.levels):
            own = "" if level.probability is None else f"{level.probability:.1%}"
            below = f"from {fine} {level.from_fine:.1%}" if number else ""
            rows.append((f"  {level.level}", level.predicted, own, below))
        lines = [escaped(answer.image), *text_table.aligned(rows, right={2})]
        for level in answer.levels:
            if level.own not in (None, level.predicted):
                lines.append(f"  the classifier of {level.level} alone: {level.own}")
        if answer.agree is False:
            lines.append("  the levels' classifiers disagree")
        shown = tuple(level.predicted for level in answer.levels) == answer.best[0].path
        rows = [
            (f"  {number}.", " < ".join(each.path), f"{each.probability:.1%}")
            for number, each in enumerate(answer.best[shown:], 1 + shown)
        ]
        return "\n".join([*lines, *(text_table.aligned(rows, right={2}) if rows else [])]) + "\n"


class Tsv:
    """A table: image, agree; per level its class and probabilities; the k best fine classes.

    A dot, which names of levels can't have, separates the names of the last from the levels'.
    """

    suffixes = (".tsv",)
    start = "image\tagree\t"

    def __init__(self, levels, top):
        self.top = top
        columns = [
            f"{level}_{part}"
            for level in levels
            for part in ("predicted", "probability", "from_fine")
        ]
        for number in range(1, top + 1):
            columns += [f"best.{number}", f"best.{number}.probability"]
        self.start = self.start + "\t".join(columns) + "\n"

    def one(self, answer):
        agree = {None: "", True: "yes", False: "no"}[answer.agree]
        cells = [escaped(answer.image), agree]
        for level in answer.levels:
            own = "" if level.probability is None else f"{level.probability:.6f}"
            cells += [escaped(level.predicted), own, f"{level.from_fine:.6f}"]
        for each in answer.best:
            cells += [escaped(each.path[0]), f"{each.probability:.6f}"]
        return "\t".join(cells) + "\n"


class Json:
    """An Answer per line, as JSON."""

    suffixes = (".json", ".jsonl")
    start = ""

    def __init__(self, levels, top):
        self.top = top

    def one(self, answer):
        return json.dumps(_rounded(typed.to_json(answer)), ensure_ascii=False) + "\n"


FORMATS = {"text": Text, "tsv": Tsv, "json": Json}


def format_of(path):
    """The name of the format that a file's suffix stands for, or None."""
    suffix = Path(path).suffix.lower()
    return next((name for name, one in FORMATS.items() if suffix in one.suffixes), None)


def is_ours(path, format):
    """Whether a file begins as answers in this format do."""
    with open(path, "rb") as file:
        first = file.readline(MOST_LINE).decode("utf-8", "replace")
    if format != "json":
        return first.startswith(FORMATS[format].start)
    try:
        return bool(_answer(first, str(path)))
    except UserError:
        return False


def encoded(text):
    """The text as UTF-8. Bytes of a file's name that are not UTF-8 become \\udcNN, as in JSON."""
    return text.encode("utf-8", "backslashreplace")


def read_lines(path):
    """[Answer] of a file that Json wrote; raises UserError."""
    what = "the answers"
    return [
        _answer(line, f"{path}, line {number}")
        for number, line in enumerate(read_text(path, what).split("\n"), 1)
        if line.strip()
    ]


def _answer(line, what):
    return typed.from_json(Answer, parse_json(line, what), what)


def read_tsv(path):
    """(header, rows of str) of a file that Tsv wrote, without escapes; raises UserError."""
    header, rows = read_table(path, "the answers")
    if header[:1] != ["image"]:
        raise UserError(f"{path} is not a table of answers: its first column is not image")
    return header, [[_plain(cell) for cell in row] for row in rows]


ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
PLAIN = {escape[1]: letter for letter, escape in ESCAPES.items()}


def escaped(text):
    """The text for a cell of a table."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def _plain(cell):
    head, *parts = cell.split("\\")
    text, rest = head, iter(parts)
    for part in rest:
        if not part:  # an escaped backslash, and what follows it
            text += "\\" + next(rest, "")
        else:
            text += PLAIN.get(part[0], "\\" + part[0]) + part[1:]
    return text


def _rounded(value):
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
