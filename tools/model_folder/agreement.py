"""Checks that other programs compute what Caffe computes, on real photographs.

Every output is compared for batches of BATCHES images: no probability may differ by more than
TOLERANCE, and the most probable class must be the same. Where a reader does not agree, both are
compared layer by layer, and the error names the first layer at which they part.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.common.errors import UserError

from .readers import Unread

TOLERANCE = 1e-5  # of a probability
BATCHES = (3, 1)
PHOTOGRAPHS = max(BATCHES)
PART = 1e-4  # of a layer's largest value: rounding stays below, a wrong layer does not


@dataclass(frozen=True)
class Agreed:
    """A reader that agrees. largest: difference of a probability over all batches and outputs."""

    name: str
    largest: float


class Disagreement(Exception):
    """A reader's outputs differ from Caffe's; the message says where. batch: the images."""

    def __init__(self, message, batch):
        super().__init__(message)
        self.batch = batch


def batches(images):
    """The batches, float32, N x 3 x height x width, that are compared. images: PHOTOGRAPHS."""
    for size in BATCHES:
        for start in range(0, len(images), size):
            yield images[start : start + size]


def compare(reader, expected, outputs):
    """Agreed of a reader; raises Disagreement.

    expected: [(batch, {name: Caffe's probabilities, N x classes})].
    """
    largest = 0.0
    for batch, ours in expected:
        theirs = reader.compute(batch, outputs)
        for name in outputs:
            rows = theirs[name].reshape(len(batch), -1)  # N x classes
            where = f"{name} of {len(batch)} images at a time"
            if rows.shape != ours[name].shape:
                raise Disagreement(f"{where} has the shape {rows.shape} there", batch)
            difference = float(np.abs(rows.astype(np.float64) - ours[name]).max())
            if not difference <= TOLERANCE:  # also where it is nan
                raise Disagreement(f"{where} differs by {difference:.2g}", batch)
            if not np.array_equal(rows.argmax(axis=1), ours[name].argmax(axis=1)):
                raise Disagreement(f"{where} has another most probable class", batch)
            largest = max(largest, difference)
    return Agreed(reader.name, largest)


def where_they_part(ours, theirs):
    """One clause: the first layer at which a reader's values differ from Caffe's.

    ours: {blob: float32}; theirs: (layer, blob, array) in the order of the net.
    """
    worst, most = "", 0.0
    try:
        for layer, blob, values in theirs:
            expected = ours[blob].astype(np.float64)
            named = f"layer {layer.name} ({layer.type})"
            if values.size != expected.size:
                return f"they part at {named}: {values.shape} there, {expected.shape} in Caffe"
            highest = float(np.abs(expected).max())
            difference = float(np.abs(values.reshape(expected.shape) - expected).max())
            share = difference / highest if highest else difference
            if not share <= PART:
                return (
                    f"they part at {named}, which differs by up to {difference:.2g} where its "
                    f"values reach {highest:.2g}"
                )
            if share > most:
                worst, most = named, share
    except Unread as error:
        return f"its layers can't be shown ({error})"
    return "no layer parts: differences add up" + (
        f", to {most:.1g} of the largest value at {worst}" if worst else ""
    )


def refuse_diverged(expected, weights):
    """UserError where Caffe's own probabilities are not finite."""
    for _, ours in expected:
        if not all(np.isfinite(rows).all() for rows in ours.values()):
            raise UserError(
                f"{weights} gives probabilities that are not finite: training has diverged"
            )
