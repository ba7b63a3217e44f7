"""Our layers with faults that public Python layers for Caffe have: what the checks must catch.

A class per fault, mixed into a layer: the layer's own gradient first, and then the fault.
"""

import numpy as np
from batches import numeric_gradient
from glm_reference import glm as glm_reference
from metric_references import triplet as triplet_reference

from python_layers import center_loss, contrastive_loss, glm_loss, minmax_loss, triplet_loss

LAYERS = {
    "glm": glm_loss.GLMLossLayer,
    "contrastive": contrastive_loss.ContrastiveLossLayer,
    "triplet": triplet_loss.TripletLossLayer,
    "minmax": minmax_loss.MinMaxLossLayer,
    "center": center_loss.CenterLossLayer,
}


def _labels(bottom):
    return [bottom[i].data.astype(int) for i in range(1, len(bottom))]


class LossWeightIgnored:
    def backward(self, top, propagate_down, bottom):
        top[0].diff[0] = 1
        super().backward(top, propagate_down, bottom)


class DivisionForgotten:
    """The loss is a mean over N, the gradient a sum."""

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        bottom[0].diff[...] *= bottom[0].shape[0]


class HingeIgnored:
    """Terms that are 0 because their hinge is closed have a gradient all the same."""

    def backward(self, top, propagate_down, bottom):
        x = bottom[0].data.astype(np.float64)
        bottom[0].diff[...] = top[0].diff[0] * self.without_hinge(x, *_labels(bottom))


class OtherBranchesLength:
    """The chain rule of x / |x| with the length of another sample."""

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        length = np.linalg.norm(bottom[0].data, axis=1, keepdims=True)
        bottom[0].diff[...] *= length / np.roll(length, 1, axis=0)


class LastPairWins:
    """`=` where a sample is in several pairs, and needs `+=`."""

    def backward(self, top, propagate_down, bottom):
        x = bottom[0].data
        for i, row in enumerate(self.terms.coefficients):
            for j in np.flatnonzero(row):
                if j != i:
                    bottom[0].diff[i] = top[0].diff[0] * row[j] * (x[j] - x[i])


class LastSampleMovesTheCenter:
    """`=` where samples share a center: NumPy's fancy indices keep the last of equal ones."""

    def backward(self, top, propagate_down, bottom):
        before, (labels,) = self.blobs[0].data.copy(), _labels(bottom)
        super().backward(top, propagate_down, bottom)
        moves = (before[labels] - bottom[0].data) / (1 + np.bincount(labels)[labels])[:, None]
        self.blobs[0].data[...] = before
        self.blobs[0].data[labels] -= self.arguments["alpha"] * moves


class AddedToTheBottom:
    """`+=` where Caffe expects `=`: it adds up a blob's consumers by itself, in a Split layer."""

    def backward(self, top, propagate_down, bottom):
        before = bottom[0].diff.copy()
        super().backward(top, propagate_down, bottom)
        bottom[0].diff[...] += before


class TimesPropagateDown:
    """The gradient times the list, which NumPy stretches over the features' columns."""

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        bottom[0].diff[...] *= np.array(list(propagate_down))


class LabelsLeftAlone:
    """Under force_backward the labels' gradient is whatever was there."""

    def backward(self, top, propagate_down, bottom):
        labels = [bottom[i].diff.copy() for i in range(1, len(bottom))]
        super().backward(top, propagate_down, bottom)
        for i, values in enumerate(labels, 1):
            bottom[i].diff[...] = values


FAULTS = [
    LossWeightIgnored,
    DivisionForgotten,
    HingeIgnored,
    OtherBranchesLength,
    LastPairWins,
    LastSampleMovesTheCenter,
    AddedToTheBottom,
    TimesPropagateDown,
    LabelsLeftAlone,
]


def _glm_without_hinge(self, x, *labels):
    return glm_reference(x, labels, [1e6] * len(labels), within_gradient="paper")[1]


def _triplet_without_hinge(self, x, labels):
    return triplet_reference(x, labels, margin=1e6, mining="all", average="mined")[1]


def _contrastive_without_hinge(self, x, labels):
    i, j = np.triu_indices(len(x), 1)
    same = labels[i] == labels[j]

    def loss(x):
        distance = np.linalg.norm(x[i] - x[j], axis=1)
        return (
            np.where(same, distance, self.arguments["margin"] - distance)
            @ np.where(same, distance, self.arguments["margin"] - distance)
            / 2
            / len(i)
        )

    return numeric_gradient(loss, x, 1e-6)


WITHOUT_HINGE = {
    "glm": _glm_without_hinge,
    "triplet": _triplet_without_hinge,
    "contrastive": _contrastive_without_hinge,
}


def name(loss, fault):
    """Of the class in this module: Caffe finds a layer by it."""
    return f"{LAYERS[loss].__name__}With{fault.__name__}"


for _loss, _layer in LAYERS.items():
    for _fault in FAULTS:
        globals()[name(_loss, _fault)] = type(
            name(_loss, _fault), (_fault, _layer), {"without_hinge": WITHOUT_HINGE.get(_loss)}
        )
