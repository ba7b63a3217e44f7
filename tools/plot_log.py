#!/usr/bin/env python3
"""Draw the learning curves in logs of `caffe train`, with a panel per quantity and a color per log.

Panels: the total training loss (already a mean over the solver's average_loss iterations); each
single loss (pale: single batches; full: their running mean; dashed with dots: on the test images);
each accuracy on the test images; and, if the net was made with `make_prototxt.py --diagnostics`,
the diagnostics of the metric loss (running means): distances of the features within and between
classes, and the shares of classes whose constraints are active, or skipped because one of their
sets is empty. A log that was appended to after a restart from a snapshot is one curve. A dotted
vertical line marks where the training diverged: accuracies after it mean nothing, as Caffe counts
scores of nan as right.

A table that tools/flows.py --tsv wrote is drawn like a log: the norm of the gradient that each loss
sends into the feature, and its share.

Logs of any encoding are read, also of docker compose, kubectl, srun and mpirun, and of NVIDIA's
Caffe and Caffe for Windows.

Example:
    caffe train -solver prototxt/cards_squeezenet_ours_solver.prototxt 2>&1 | tee ours.log
    tools/plot_log.py sm.log ours.log --out results/curves.png
    tools/flows.py --solver prototxt/cards_squeezenet_ours_solver.prototxt --tsv results/flows.tsv
    tools/plot_log.py results/flows.tsv --out results/flows.png
"""

import argparse
import io
from pathlib import Path

import numpy as np

from data_prep.common import files
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import caffe_log, diagnostics, event_files, flow_table
from tools.curves import labels, panels, running_mean

COLUMNS = 4  # panels side by side, at most
PANEL = (3.6, 2.6)  # inches
FIRST_ITERATIONS = 10  # a loss that diverges so early hints at weights that were not given
STYLES = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))]  # of the curves of one log in a panel


def figure(logs, names):
    """Matplotlib figure of the curves; raises UserError if no log has any."""
    from matplotlib.figure import Figure

    shown = panels(logs)
    if not shown:
        raise UserError(f"{', '.join(names)}: the log has neither losses nor accuracies to draw")
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    picture = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.5), layout="constrained")
    axes = picture.subplots(rows, columns, squeeze=False).ravel()
    every = np.concatenate([x for log in logs for x, _ in log.series.values()])
    margin = 0.02 * np.ptp(every) + 0.5
    handles = {}
    for axis, panel in zip(axes, shown):
        for n, (log, label) in enumerate(zip(logs, names)):
            for line in draw(axis, log, panel, f"C{n % 10}"):
                handles.setdefault(label, line)
        if list(panel.outputs) != [panel.title]:
            explain(axis, panel)
        axis.set_title(panel.title, fontsize=10, parse_math=False)
        axis.set_xlabel("iteration", fontsize=8)
        axis.set_xlim(every.min() - margin, every.max() + margin)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if "accuracy" in panel.title or "share" in panel.title:
            axis.set_ylim(-0.02, 1.02)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if handles:
        place = dict(loc="outside upper left", ncols=len(handles), fontsize=9, frameon=False)
        _legend(picture, handles.values(), handles, **place)
    return picture


def _legend(target, handles, names, **options):
    """A legend with literal names: `$` does not start math, and a leading _ hides nothing."""
    legend = target.legend([*handles], ["name"] * len(handles), **options)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, parse_math=False)


def draw(axis, log, panel, color):
    """Draw one panel's quantities of one log; returns its lines, the one for the legend first."""
    lines = []
    for n, name in enumerate(panel.outputs):
        if ("train", name) in log.series:
            x, y = log.series["train", name]
            if name != caffe_log.TOTAL:
                if len(panel.outputs) == 1:
                    axis.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
                y = running_mean(y)
            lines += axis.plot(
                x,
                y,
                color=color,
                linewidth=1.5,
                linestyle=STYLES[n % len(STYLES)],
                marker="o" if len(x) == 1 else None,
            )
        if ("test", name) in log.series:
            lines += axis.plot(
                *log.series["test", name],
                color=color,
                marker="o",
                markersize=3,
                linestyle="--" if name in log.losses else "-",
                linewidth=1.2,
            )
    if lines and (end := log.diverged()):
        axis.axvline(end[0], color=color, linestyle=":", linewidth=1)
    return lines


def explain(axis, panel):
    """A legend of the line styles, in gray, because colors stand for logs."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="0.4", linestyle=STYLES[n % len(STYLES)])
        for n in range(len(panel.outputs))
    ]
    _legend(axis, lines, panel.outputs.values(), fontsize=6, handlelength=3, framealpha=0.6)


def rows(logs, names):
    """Lines of the table: every value of every log."""
    yield "log\tphase\toutput\titeration\tvalue"
    for log, name in zip(logs, names):
        entries = diagnostics.named(log.names("train"))
        for (phase, output), (iterations, values) in log.series.items():
            if phase == "train" and output in entries:
                output = ".".join(entries[output])
            for iteration, value in zip(iterations.tolist(), values.tolist()):
                yield f"{name}\t{phase}\t{output}\t{iteration}\t{value:g}"


def read(path):
    """caffe_log.Log of a log or of a table of flows. Raises UserError."""
    if path.is_file() and flow_table.is_table(path):
        return flow_table.read(path)
    return caffe_log.read(path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="output of `caffe train`")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument(
        "--tsv", type=Path, help="also write the numbers: log, phase, output, iteration, value"
    )
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="also write TensorBoard's event files, into DIR/LOG (tools/watch_log.py: during a "
        "training)",
    )
    args = parser.parse_args()
    if args.out.suffix != ".png":
        parser.error(f"--out {args.out}: the name must end in .png")
    logs = [read(path) for path in args.logs]
    names = labels(args.logs)
    picture = io.BytesIO()
    figure(logs, names).savefig(picture, format="png", dpi=130)
    if args.tsv:
        files.write_whole(args.tsv, "\n".join(rows(logs, names)) + "\n")
    files.write_whole(args.out, picture.getvalue())
    if args.tensorboard:
        events = event_files.EventFiles(args.tensorboard)
        for name, log in zip(names, logs):
            events.update(name.replace("/", "_"), log)
        events.close()
    for name, log in zip(names, logs):
        x, y = log.series.get(("train", caffe_log.TOTAL), ((), ()))
        if len(x):
            print(f"{name}: loss {y[0]:.4g} at iteration {x[0]}, {y[-1]:.4g} at iteration {x[-1]}")
        if end := log.diverged():
            early = end[0] < FIRST_ITERATIONS
            hint = "; were the weights given (-weights)?" if early else ""
            print(f"{name}: diverged at iteration {end[0]}: {end[1]}{hint}")
        if log.stopped:
            print(f"{name}: Caffe stopped: {log.stopped}")
        if log.others:
            print(f"{name}: also holds the iterations of {', '.join(log.others)}: not drawn")
    print(f"wrote {args.out}" + (f" and {args.tsv}" if args.tsv else ""))
    if args.tensorboard:
        print(f"wrote event files into {args.tensorboard}; tensorboard --logdir shows them")


if __name__ == "__main__":
    command(main)
