"""The table that tools/flows.py --tsv writes: a row per measurement and loss."""

import math

from data_prep.common.errors import UserError
from data_prep.common.text import read_numbered
from tools.caffe_log import Log

COLUMNS = ("iteration", "loss", "weight", "value", "gradient", "share", "all", "deviation")
NORM, SHARE = "flow ", "share "  # begin the names of a loss's series
ALL = "all losses"


def text(found):
    """The table of flow_meter.Measurements; whole numbers and floats as Python prints them."""
    rows = [COLUMNS]
    rows += [
        (one.iteration, flow.loss, flow.weight, flow.value, flow.norm, flow.share)
        + (one.norm, one.deviation)
        for one in found
        for flow in one.flows
    ]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def is_table(path):
    """Whether a file begins as the table does."""
    with open(path, "rb") as file:
        return file.readline(200).decode(errors="replace").rstrip("\r\n") == "\t".join(COLUMNS)


def read(path):
    """caffe_log.Log of a table, without losses: series NORM + loss, SHARE + loss and NORM + ALL.

    Losses that never send anything are left out. Raises UserError where a row is damaged.
    """
    _, rows = read_numbered(path, "the table of flows")
    points, acting = {}, set()
    for number, (iteration, loss, *numbers) in rows:
        try:
            at = int(iteration)
            _, _, gradient, share, whole, _ = map(float, numbers)
            if not all(map(math.isfinite, (gradient, share, whole))):
                raise ValueError("a number is not finite")
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged: {error}") from None
        if gradient:
            acting.add(loss)
        for name, value in ((NORM + loss, gradient), (SHARE + loss, share), (NORM + ALL, whole)):
            points.setdefault(("train", name), {})[at] = value
    return Log(
        {
            key: found
            for key, found in points.items()
            if key[1] == NORM + ALL or key[1].partition(" ")[2] in acting
        },
        losses=[],
    )
