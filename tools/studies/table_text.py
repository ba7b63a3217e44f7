"""A table.Table as Markdown, CSV and LaTeX, and the list of a study's cells."""

import csv
import io
from dataclasses import dataclass, replace

from data_prep.common import text_table
from tools.nets import tables
from tools.studies import cells, convergence, effects, measures, settings, significance
from tools.studies.measures import MEASURES
from tools.studies.table import FROM_FINE, OWN

ARROWS = {measures.HIGHER: "↑", measures.LOWER: "↓"}
MARK = "*"  # better than the first row of the same data set and network


def notes(line):
    """Short remarks on a line."""
    if not line.finished and not line.diverged:
        yield "not run yet"
        return
    if line.diverged:
        yield f"{line.diverged} of {line.wanted} diverged"
    missing = line.wanted - line.finished - line.diverged
    if missing:
        yield f"{line.finished} of {line.wanted} seeds"
    if line.rising:
        yield f"not converged ({line.rising} of {line.watched})"
    elif not line.watched and line.finished:
        yield "convergence not known"
    for name in line.ends:
        yield f"{name} at the end of its sweep"
    if line.changed:
        yield "code changed since"
    if line.lacking:
        yield f"evaluated without {', '.join(line.lacking)}"


def explanations(table):
    """Sentences below the table."""
    study = table.study
    for split, images, data in table.scored:
        yield f"Top-1 in percent on {images} {split} images of {data}; mean ± SD over seeds."
    if len(table.lines) > 1:
        yield (
            f"Bold: better than every other row of its data set and network; {MARK}: better than "
            f"the first of them. {significance.STATED[0].upper()}{significance.STATED[1:]}."
        )
    for name in study.measures:
        one = MEASURES[name]
        yield f"{name} ({ARROWS[one.better]} {one.better} is better): {one.meaning}."
    if study.measures:
        yield f"No test is made of {_listed(study.measures)}: none of their figures is marked."
    if study.select:
        yield (
            "Chosen: the options with the best fine top-1 on the "
            f"validation images (mean over {len(study.select_seeds)} "
            f"{'seed' if len(study.select_seeds) == 1 else 'seeds'}); then trained on "
            f"{_trained_on(study)} and tested once. Test figures of other values were not computed."
        )
    yield (
        f"Not converged: fine top-1 on {'validation' if study.select else study.split} images "
        f"still rises in the last third of the tests (slope, p < {convergence.LEVEL})."
    )
    seen = {line.paper for line in table.lines if line.paper}
    for certainty, source in sorted({(one.certainty, one.source) for one in seen}):
        yield f"Paper: {certainty}; {source}."


def _listed(words):
    return " and ".join([part for part in (", ".join(words[:-1]), words[-1]) if part])


def _trained_on(study):
    """What the final trainings of a study with a selection read, in words."""
    alone = [one.name for one in study.data if one.validation == one.whole]
    if len(alone) == len(study.data):
        return "the same training images, without the validation images,"
    more = f" (without the latter: {', '.join(alone)})" if alone else ""
    return f"training and validation images{more}"


@dataclass(frozen=True)
class Part:
    """The lines of one data set and network, with the columns that they have.

    shown     names of options of the study's grid
    varied    names of options of its vary, of which a line has at most one
    measures  names
    """

    name: str
    shown: tuple
    varied: tuple
    chosen: bool
    columns: tuple
    measures: tuple
    paper: bool
    lines: tuple

    @property
    def head(self):
        words = {OWN: "", FROM_FINE: " from fine"}
        return [
            "variant",
            *self.shown,
            *(["varied"] if self.varied else []),
            *(["chosen"] if self.chosen else []),
            *(f"{level}{words[kind]}" for level, kind in self.columns),
            *(f"{name} {ARROWS[MEASURES[name].better]}" for name in self.measures),
            *(["paper"] if self.paper else []),
            "remarks",
        ]

    @property
    def numbers(self):
        """Positions of the columns with figures."""
        first = 1 + len(self.shown) + bool(self.varied) + self.chosen
        return range(first, first + len(self.columns) + len(self.measures))

    @staticmethod
    def title(line):
        return tables.short_title(line.row.variant)

    def cells(self, line, written):
        """Texts of a Line. written: function(Value, digits) -> text."""
        options = dict(line.row.shown)
        yield self.title(line)
        for name in self.shown:
            yield str(options.get(name, ""))
        if self.varied:
            yield ", ".join(f"{name} {options[name]}" for name in self.varied if name in options)
        if self.chosen:
            yield ", ".join(f"{name} {value}" for name, value in line.chosen)
        for column in self.columns:
            value = line.values.get(column)
            yield "" if value is None else written(value, 1)
        for name in self.measures:
            value = line.measured.get(name)
            yield "" if value is None else written(value, 1 if MEASURES[name].percent else 3)
        if self.paper:
            yield "" if line.paper is None else f"{line.paper.top1:.1f}"
        yield "; ".join(notes(line))


def _parts(table):
    """The Parts of a table, in its order."""
    return [
        Part(
            name=f"{data}, {net}",
            shown=tuple(name for name in _shown(lines) if name not in table.study.vary),
            varied=tuple(name for name in _shown(lines) if name in table.study.vary),
            chosen=any(line.chosen for line in lines),
            columns=tuple(
                one for one in table.columns if any(one in line.values for line in lines)
            ),
            measures=tuple(
                one for one in table.study.measures if any(one in line.measured for line in lines)
            ),
            paper=any(line.paper for line in lines),
            lines=tuple(lines),
        )
        for (data, net), lines in table.parts().items()
    ]


def _shown(lines):
    """Names of the options that tell rows apart."""
    return list(dict.fromkeys(name for line in lines for name, _ in line.row.shown))


def _option_names(table):
    shown = _shown(table.lines)
    return [*shown, *sorted(cells.swept(table.study) - set(shown))]


def _number(value, plus_minus, digits):
    text = f"{value.mean:.{digits}f}"
    return text if value.spread is None else f"{text}{plus_minus}{value.spread:.{digits}f}"


def markdown(table):
    """Text of a Markdown table per data set and network, with the explanations of all."""

    def written(value, digits):
        text = _number(value, " ± ", digits)
        return (f"**{text}**" if value.best else text) + (r"\*" if value.above_first else "")

    lines = [f"**{table.study.title}**"]
    for part in _parts(table):
        rows = [part.head, *(list(part.cells(line, written)) for line in part.lines)]
        lines += ["", part.name, "", *text_table.markdown(rows)]
    lines += _differences(table)
    lines.append("")
    lines += [sentence.replace(MARK, "\\*") + "  " for sentence in explanations(table)]
    return "\n".join(lines).strip() + "\n"


def _differences(table):
    """Lines of a Markdown table per data set and network: what each row adds to the first."""
    found = []
    for part in _parts(table):
        first, *others = part.lines
        first = ", ".join([part.title(first), *(f"{k} {v}" for k, v in first.row.shown)])

        def written(value, digits):
            effect = value.effect
            return effect and f"{effect.mean:+.{digits}f} ± {effect.half:.{digits}f}" or ""

        bare = replace(part, chosen=False, paper=False)
        rows = [list(bare.cells(line, written))[:-1] for line in others]
        if any(any(row[bare.numbers.start :]) for row in rows):
            found += ["", f"{part.name}: difference from {first} ({effects.STATED})", ""]
            found += text_table.markdown([bare.head[:-1], *rows])
    return found


def latex(table):
    """Text of a LaTeX table (package booktabs), a tabular per data set and network."""

    def written(value, digits):
        text = _number(value, r" $\pm$ ", digits)
        text = rf"\textbf{{{text}}}" if value.best else text
        return text + ("$^{*}$" if value.above_first else "")

    lines = [r"\begin{table}", rf"\caption{{{_escaped(table.study.title)}}}"]
    for part in _parts(table):
        kinds = ["r" if i in part.numbers else "l" for i in range(len(part.head))]
        lines += [
            rf"\par {_escaped(part.name)}\par",
            rf"\begin{{tabular}}{{{''.join(kinds)}}}",
            r"\toprule",
            " & ".join(map(_escaped, part.head)) + r" \\",
            r"\midrule",
        ]
        for line in part.lines:
            texts = [
                text if i in part.numbers else _escaped(text)
                for i, text in enumerate(part.cells(line, written))
            ]
            lines.append(" & ".join(texts) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_escaped(sentence)}" for sentence in explanations(table)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _escaped(text):
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", "~": r"\~{}", "^": r"\^{}"}
    special |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def csv_text(table):
    """Text of a CSV file: a line per row and column, with unrounded numbers.

    The name of a measure stands in the column `prediction`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = _option_names(table)
    writer.writerow(
        ["data", "net", "variant", *names, "level", "prediction", "mean", "sd", "seeds"]
        + [
            "difference",
            "half_width",
            "best",
            "above_first",
            "better",
            "paper",
            "paper_certainty",
            "diverged",
            "not_converged",
        ]
        + ["remarks"]
    )
    fine = table.columns[0] if table.columns else None
    for line in table.lines:
        options = dict((*line.row.shown, *line.chosen))
        begin = [line.row.data.name, line.row.net.name, line.row.variant]
        begin += [options.get(name, "") for name in names]
        end = [line.diverged, line.rising, "; ".join(notes(line))]
        if not line.values:
            writer.writerow([*begin, *[""] * 12, *end])
        for column, value in line.values.items():
            spread = "" if value.spread is None else f"{value.spread:.4f}"
            paper = line.paper if column == fine else None
            writer.writerow(
                [*begin, *column, f"{value.mean:.4f}", spread, value.seeds]
                + [*_effect(value, 4), int(value.best), int(value.above_first), measures.HIGHER]
                + (["", ""] if paper is None else [paper.top1, paper.certainty])
                + end
            )
        for name, value in line.measured.items():
            spread = "" if value.spread is None else f"{value.spread:.6f}"
            writer.writerow(
                [*begin, "", name, f"{value.mean:.6f}", spread, value.seeds]
                + [*_effect(value, 6), "", "", MEASURES[name].better, "", ""]
                + end
            )
    return out.getvalue()


def _effect(value, digits):
    """Texts of the difference from the first row and of half its interval's width."""
    if value.effect is None:
        return ["", ""]
    return [f"{value.effect.mean:.{digits}f}", f"{value.effect.half:.{digits}f}"]


def cells_text(found):
    """Text of a tab-separated table of Records: identity, result and cost of each."""
    head = "role data net variant options seed split status fine_top1 iterations batch seconds"
    head += " images_per_second evaluation_seconds machine device threads commit ended key"
    lines = [head.split()]
    for one in found:
        options = " ".join(settings.words(one.options))
        scores = one.scores
        top1 = scores and scores.levels[0].own and f"{scores.levels[0].own.top1:.6f}"
        lines.append(
            [one.role, one.data, one.net, one.variant, options, one.seed]
            + [scores.split if scores else "", one.status, top1 or "", one.iterations, one.batch]
            + [one.seconds, one.images_per_second or "", scores.seconds if scores else ""]
            + [one.machine, one.device, one.threads, one.commit, one.ended, one.key[:8]]
        )
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)
