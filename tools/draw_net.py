#!/usr/bin/env python3
"""Draw a net's head, with its skipping connections, as in Figs. 3 and 4 of the paper."""

import argparse
import io
import sys
from pathlib import Path

import matplotlib

from data_prep.common import prototxt
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.common.files import write_whole
from tools.nets import data, head, tables
from tools.nets.diagram import diagram
from tools.pycaffe import caffe_pb2

FORMATS = (".png", ".svg", ".pdf")
BLUE = "#1f6fd0"  # skipping connections, as in the paper
COLORS = dict(
    plain="#eceff1", feature="#ffe0b2", classifier="#d7e8fb", loss="#e3f1da", metric="#f6d5e5"
)


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  tools/draw_net.py prototxt/cub_googlenet_ours_solver.prototxt "
        "--out results/head.png",
    )
    parser.add_argument("prototxt", type=Path, help="a solver or a train_val net")
    parser.add_argument(
        "--variant",
        choices=list(tables.STAGES),
        default="ours",
        help="variant of a net to draw (default: %(default)s); a solver determines its own",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"output figure, {', '.join(FORMATS)}",
    )
    return parser.parse_args(arguments)


def _net_and_stages(path, variant):
    message = prototxt.read(path, caffe_pb2.SolverParameter(), caffe_pb2.NetParameter())
    if isinstance(message, caffe_pb2.NetParameter):
        rules = [rule for layer in message.layer for rule in layer.include]
        known = {stage for rule in rules for stage in rule.stage}
        has_head = any(layer.name == head.scores(1) for layer in message.layer)
        missing = [stage for stage in tables.STAGES[variant] if stage not in known]
        if has_head and missing:
            raise UserError(
                f"{path} has no stage {missing[0]}, which {tables.TITLES[variant]} needs: write it "
                f"with --variant {variant} of tools/make_prototxt.py"
            )
        return message, tables.STAGES[variant]
    if not message.net:
        raise UserError(f'{path} does not name a net: it needs a line `net: "....prototxt"`')
    return (prototxt.read(message.net, caffe_pb2.NetParameter()), tuple(message.train_state.stage))


def _titles(shown):
    """Titles of the backbone and of the levels: names if known to the tables, else numbers."""
    dataset, _, net = shown.name.rpartition("_")
    known = tables.DATASETS.get(dataset.removesuffix(f"_{data.BBOX}"))
    names = dict(enumerate(zip(known.sizes, known.levels), 1)) if known else {}
    levels = []
    for classifier in shown.classifiers:
        classes, name = names.get(classifier.level, (0, ""))
        levels.append(
            name.replace("_", " ") if classes == classifier.classes else f"level {classifier.level}"
        )
    return tables.NETS[net].title if net in tables.NETS else shown.name, levels


def _lanes(skips):
    """The route of each skipping connection, with few crossings: {(from, to): (lane, out, in)}.

    skips: pairs of column numbers. The longer a connection, the higher its lane (0, 1, ...), the
    further left it leaves and the further right it arrives: out and in are in (0, 1) of half a box.
    """
    by_length = sorted(skips, key=lambda skip: (skip[1] - skip[0], skip))

    def place(skip, end):
        same_end = [other for other in by_length if other[end] == skip[end]]
        return (same_end.index(skip) + 1) / (len(same_end) + 1)

    return {skip: (lane, 1 - place(skip, 0), place(skip, 1)) for lane, skip in enumerate(by_length)}


def draw(shown):
    """matplotlib Figure of a tools.nets.diagram.Diagram."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Line

    backbone, levels = _titles(shown)
    read = 3 if shown.dropout else 2  # the column that the classifiers read
    columns = {shown.feature: read}
    for number, classifier in enumerate(shown.classifiers, read + 1):
        columns[classifier.name] = number
    lanes = _lanes(
        [
            (columns[blob], columns[classifier.name])
            for classifier in shown.classifiers
            for blob in classifier.reads
            if columns[blob] < columns[classifier.name] - 1
        ]
    )

    step, half, tall, losses, corner = 2.45, 0.95, 0.45, -1.6, 0.15
    top = tall + (0.5 + 0.32 * len(lanes) if lanes else 0.2)
    right = max(columns.values()) * step + half
    size = (right + half + 0.3, top - losses + tall + 0.15)
    figure = Figure(figsize=(size[0] * 0.66, size[1] * 0.66))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-half - 0.15, right + 0.15), ylim=(top - size[1], top))
    axes.axis("off")

    def box(column, y, color, title, detail):
        x = column * step
        axes.add_patch(
            FancyBboxPatch(
                (x - half, y - tall),
                2 * half,
                2 * tall,
                linewidth=1.1,
                boxstyle="round,pad=0,rounding_size=0.1",
                zorder=2,
                edgecolor="#455a64",
                facecolor=COLORS[color],
            )
        )
        for text, shift, weight in ((title, 0.16, "bold"), (detail, -0.18, "normal")):
            axes.text(
                x, y + shift, text, ha="center", va="center", fontsize=8, weight=weight, zorder=3
            )

    def arrow(points, color="#37474f", width=1.1):
        """Draw straight lines between the points, with rounded corners."""
        vertices, codes = [points[0]], [Line.MOVETO]
        for before, at, after in zip(points, points[1:], points[2:]):
            for end in (before, after):
                length = abs(end[0] - at[0]) + abs(end[1] - at[1])
                near = tuple(a + (e - a) * corner / length for a, e in zip(at, end))
                vertices += [near] if end is before else [at, near]
                codes += [Line.LINETO] if end is before else [Line.CURVE3] * 2
        axes.add_patch(
            FancyArrowPatch(
                path=Line(vertices + [points[-1]], codes + [Line.LINETO]),
                arrowstyle="-|>",
                mutation_scale=10,
                zorder=1,
                color=color,
                linewidth=width,
                joinstyle="miter",
            )
        )

    def loss(column, color, title, detail):
        arrow([(column * step, -tall), (column * step, losses + tall)])
        box(column, losses, color, title, detail)

    reads = {(columns[blob], columns[one.name]) for one in shown.classifiers for blob in one.reads}
    for column in range(max(columns.values())):
        if column < read or (column, column + 1) in reads:
            arrow([(column * step + half, 0), ((column + 1) * step - half, 0)])
    box(0, 0, "plain", "images", "B, G, R minus mean")
    box(1, 0, "plain", backbone, f"{shown.first} ...")
    box(2, 0, "feature", "feature", shown.feature)
    if shown.dropout:
        box(read, 0, "plain", "dropout", f"{shown.dropout:g}")
    if shown.metric:
        name, weight = shown.metric
        row = tables.LOSSES[name]
        reads = "all levels" if tables.ALL_LABELS in row.reads else f"label: {levels[0]}"
        loss(2, "metric", row.called, f"\u00d7 {weight:g}, {reads}")
    for classifier, level in zip(shown.classifiers, levels):
        column = columns[classifier.name]
        box(column, 0, "classifier", classifier.name, f"{classifier.classes} \u00d7 {level}")
        if shown.scored:
            name, weight = shown.scored
            row = tables.LOSSES[name]
            reads = f"label: {level}"
            if tables.ALL_SCORES in row.reads:
                reads = "of all levels"
            loss(
                column, "metric", row.title, reads if weight == 1 else f"\u00d7 {weight:g}, {reads}"
            )
        else:
            loss(column, "loss", "softmax loss", f"label: {level}")
    for (start, end), (lane, leave, arrive) in lanes.items():
        y, x = tall + 0.35 + 0.32 * lane, (start + leave * half / step) * step
        arrive = end * step - half + arrive * half
        arrow([(x, tall), (x, y), (arrive, y), (arrive, tall)], BLUE, 1.5)
    legend = "skipping connections" if any(len(one.reads) > 1 for one in shown.classifiers) else ""
    if shown.parts:
        legend = "parts: own, and the finer ones without gradient"
    if lanes and legend:
        axes.text(
            read * step + half,
            top - 0.22,
            legend,
            fontsize=8,
            color=BLUE,
            ha="left",
            va="center",
        )
    return figure


def main():
    options = _parse(sys.argv[1:])
    if options.out.suffix.lower() not in FORMATS:
        raise UserError(
            f"--out {options.out}: unsupported figure format, the name must end in one of "
            f"{', '.join(FORMATS)}"
        )
    net, stages = _net_and_stages(options.prototxt, options.variant)
    try:
        shown = diagram(net, stages)
    except ValueError as error:
        raise UserError(f"{options.prototxt} {error}") from None
    form = options.out.suffix[1:].lower()
    # No random ids or dates, so that the same net gives the same bytes; text stays text in SVG.
    date = {"svg": "Date", "pdf": "CreationDate"}.get(form)
    same = {"metadata": {date: None}} if date else {}
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": shown.name, "svg.fonttype": "none"}):
        draw(shown).savefig(picture, format=form, dpi=160, facecolor="white", **same)
    write_whole(options.out, picture.getvalue())
    print(f"wrote {options.out}")


if __name__ == "__main__":
    command(main)
