"""Softmax in log space, and checks of scores and labels, for losses of class scores: no Caffe."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from python_layers.backend import array_module, on_host
from python_layers.labels import whole_numbers

# Larger scores are refused: a loss of larger ones does not fit into float32.
LARGEST_SCORE = 1e15


@dataclass(frozen=True)
class ScoreTerms:
    """The results of a forward pass of a loss of scores: for backward and for the second top.

    loss:          a float >= 0; on a GPU an array without axes.
    gradients:     dL/dscores, one float64 array per score array, of its shape.
    probabilities: n x C float64, of the fine classes; each row sums to 1.
    """

    loss: Any
    gradients: list
    probabilities: Any


def check_label(values, level, classes):
    """Labels of one level as int64 vector. Raises ValueError unless they are whole numbers below
    `classes`; values on a GPU are not checked."""
    values = values.ravel()
    if not on_host(values):
        return values.astype(np.int64)
    values = whole_numbers(values, level)
    if values.max(initial=0) >= classes:
        raise ValueError(
            f"label_{level} holds class {values.max()}, but there are only {classes} classes, "
            "numbered from 0"
        )
    return values


def float64(scores, level):
    """The scores in float64, n x C. Raises ValueError for nan, inf and scores beyond LARGEST_SCORE;
    not checked on a GPU."""
    scores = scores.astype(np.float64)
    if on_host(scores) and not (np.abs(scores) <= LARGEST_SCORE).all():
        sample = np.flatnonzero(~(np.abs(scores) <= LARGEST_SCORE).all(axis=1))[0]
        raise ValueError(
            f"the scores of level {level} of sample {sample} hold nan, inf or a value beyond "
            f"{LARGEST_SCORE:g}: either training has diverged, and a lower base_lr is needed, or "
            "it began without the pretrained weights (-weights) that this net needs"
        )
    return scores


def log_sum_exp(values, axis=-1):
    """log sum exp along an axis, which is kept with size 1; -inf if all values are."""
    xp = array_module(values)
    largest = values.max(axis=axis, keepdims=True)
    finite = xp.where(xp.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):  # log(0)
        return finite + xp.log(xp.exp(values - finite).sum(axis=axis, keepdims=True))


def log_softmax(values, axis=-1):
    return values - log_sum_exp(values, axis)


def one_hot(labels, classes):
    """n x C float64."""
    xp = array_module(labels)
    return (labels[:, None] == xp.arange(classes)).astype(np.float64)


def entries(values, labels):
    """values[i, labels[i]]: n."""
    return values[array_module(values).arange(len(labels)), labels]
