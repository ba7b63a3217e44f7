"""What is drawn of a log of `caffe train`: its panels, the names of several logs, running means."""

import re
from dataclasses import dataclass

import numpy as np

from tools import caffe_log, diagnostics, flow_table

WINDOW = 20  # the running mean goes over a twentieth of the points


@dataclass(frozen=True)
class Panel:
    """What is drawn into one panel: {output of the log: its name in the panel}, under a title."""

    title: str
    outputs: dict


def running_mean(values):
    """Centered mean over len/WINDOW neighbors, fewer at the ends; excludes nan and inf."""
    half = len(values) // (2 * WINDOW)
    finite = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0], np.where(finite, values, 0)]))
    counts = np.cumsum(np.concatenate([[0], finite]))
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    means = (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)
    return np.where(finite, means, values)


def panels(logs):
    """The Panels: total loss, single losses, accuracies, diagnostics; those that any log has."""
    losses = dict.fromkeys(name for log in logs for name in log.losses)
    accuracies = {
        name
        for log in logs
        for name in log.names("test")
        if "[" not in name and f"{name}[1]" not in log.names("test") and name not in losses
    }

    def fine_to_coarse(name):  # loss_fine, loss1/loss_fine, glm_loss, loss_fc9..., loss_fc10...
        return not name.endswith("fine"), len(name), name

    single = [
        Panel(name, {name: name})
        for name in dict.fromkeys(
            [
                caffe_log.TOTAL,
                *sorted(losses, key=fine_to_coarse),
                *sorted(accuracies, key=fine_to_coarse),
            ]
        )
        if any((phase, name) in log.series for log in logs for phase in ("train", "test"))
    ]
    return single + diagnostic_panels(logs) + flow_panels(logs)


def diagnostic_panels(logs):
    """A Panel for each kind of diagnostics of each metric loss; its loss has a panel already."""
    found = {}
    for log in logs:
        for output, (loss, entry) in diagnostics.named(log.names("train")).items():
            if entry != "loss":
                title = f"{loss}: {diagnostics.kind(entry)}"
                found.setdefault(title, {})[output] = entry
    return [Panel(title, outputs) for title, outputs in found.items()]


def flow_panels(logs):
    """The Panels of tables of flows: the norms, and their shares."""
    names = dict.fromkeys(name for log in logs for name in log.names("train"))
    panels_of = {
        "gradient into the feature": flow_table.NORM,
        "share of the gradients' norms": flow_table.SHARE,
    }
    found = {
        title: {name: name.removeprefix(start) for name in names if name.startswith(start)}
        for title, start in panels_of.items()
    }
    return [Panel(title, outputs) for title, outputs in found.items() if outputs]


def labels(paths):
    """Names that distinguish the logs: the files', else their folders', else the whole paths."""
    for names in (
        [path.stem for path in paths],
        [path.resolve().parent.name for path in paths],
        [str(path) for path in paths],
    ):
        names = [_printable(name) for name in names]
        if len(set(names)) == len(paths):
            return names
    return [f"{number} {name}" for number, name in enumerate(names, 1)]


def _printable(name):
    """The name as one line that can be drawn and encoded."""
    text = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    return text.encode("utf-8", "backslashreplace").decode()
