"""Charts of trainings: losses, accuracies, diagnostics from logs; gradients of tools/flows.py."""

import numpy as np

from data_prep.common.errors import UserError
from tools import caffe_log, curves, flow_table

from .charts import COLORS, DASHES, chart


def of_logs(logs, names):
    """[Chart] of the panels of caffe_log.Logs; a color per log."""
    colors = [COLORS[n % len(COLORS)] for n in range(len(logs))]
    every = np.concatenate([x for log in logs for x, _ in log.series.values()])
    x_range = (every.min(), every.max()) if np.ptp(every) else None
    return [
        chart(
            panel.title,
            [line for log, color in zip(logs, colors) for line in _lines(log, panel, color)],
            x_range=x_range,
            y_range=(0, 1) if _is_share(panel.title) else None,
            percent=_is_share(panel.title),
            legend=_styles(panel),
            marks=[(end[0], color) for log, color in zip(logs, colors) if (end := log.diverged())],
        )
        for panel in curves.panels(logs)
    ]


def _is_share(title):
    return "accuracy" in title or "share" in title


def _styles(panel):
    """The legend of the dashes, where a panel has several quantities."""
    if list(panel.outputs) == [panel.title]:
        return ()
    return tuple(
        (name, "#666", DASHES[n % len(DASHES)]) for n, name in enumerate(panel.outputs.values())
    )


def _lines(log, panel, color):
    """The curves of one log in a panel, as in tools/plot_log.py."""
    for n, name in enumerate(panel.outputs):
        if ("train", name) in log.series:
            x, y = log.series["train", name]
            if name != caffe_log.TOTAL:
                if len(panel.outputs) == 1:
                    yield x, y, {"color": color, "opacity": 0.25, "wide": 1}
                y = curves.running_mean(y)
            yield x, y, {"color": color, "dash": DASHES[n % len(DASHES)]}
        if ("test", name) in log.series:
            dash = DASHES[1] if name in log.losses else ""
            yield *log.series["test", name], {"color": color, "dash": dash, "radii": 2.4}


def read_flows(path):
    """{loss: (iterations, gradient norms)} of a table of tools/flows.py; raises UserError."""
    if not flow_table.is_table(path):
        raise UserError(f"{path} is not a table that tools/flows.py --tsv writes")
    norms = {
        name.removeprefix(flow_table.NORM): values
        for (_, name), values in flow_table.read(path).series.items()
        if name.startswith(flow_table.NORM)
    }
    norms.pop(flow_table.ALL, None)
    return norms


def of_flows(flows, name):
    """Chart of the gradient that each loss sends into the feature. flows: of read_flows."""
    colors = [COLORS[n % len(COLORS)] for n in range(len(flows))]
    return chart(
        f"gradient into the feature: {name}",
        [
            (*values, {"color": color, "radii": 2.4 if len(values[0]) < 30 else 0})
            for values, color in zip(flows.values(), colors)
        ],
        log=True,
        legend=tuple((loss, color, "") for loss, color in zip(flows, colors)),
    )
