"""Random batches for the losses: features and labels of a tree."""

import numpy as np
from glm_reference import random_tree

from python_layers import contrastive, glm, minmax, triplet


def random_batch(seed, levels, samples=24, fine_classes=8, dimensions=10, scale=1.0):
    """(features, labels, margins); the margins are of the size of the distances."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, levels, fine_classes)
    labels = tree[rng.integers(fine_classes, size=samples)].T
    features = rng.normal(scale=scale, size=(samples, dimensions)).astype(np.float32)
    margins = list(rng.uniform(10, 30, size=levels) * scale**2)
    return features, labels, margins


def smooth_batch(step, levels, margins, **options):
    """(features, labels) where finite differences of the GLM loss mean something: steady_batch."""
    return steady_batch(
        step, levels, lambda x, labels: glm.forward(x, labels, margins, **options).coefficients != 0
    )


def steady_batch(step, levels, selection):
    """(features, labels) of the first seed where one component moved by `step` changes no choice.

    A loss is not differentiable where a hinge begins or two pairs tie for nearest. `selection` maps
    features and labels to an array of what the loss chose there, such as its nonzero coefficients.
    """
    for seed in range(100):
        features, labels, _ = random_batch(seed, levels, samples=12, dimensions=4)
        expected = selection(features, labels)
        moves = (
            sign * step * np.eye(1, features.size, i).reshape(features.shape)
            for i in range(features.size)
            for sign in (1, -1)
        )
        if expected.any() and all(
            (selection(features + move, labels) == expected).all() for move in moves
        ):
            return features, labels
    raise AssertionError(f"no smooth batch among 100 seeds for a step of {step}")


def contrastive_choice(**options):
    """The selection of the contrastive loss for steady_batch: pairs inside the margin."""
    return lambda x, labels: contrastive.forward(x, labels, **options).coefficients != 0


def triplet_choice(normalize=True, **options):
    """The selection of the triplet loss: its coefficients are constant while the triplets are."""

    def selection(x, labels):
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalize else x
        return triplet.forward(x, labels, normalize=False, **options).coefficients

    return selection


def minmax_choice(**options):
    """The selection of the Min-Max objective: which pairs are in its graphs."""
    return lambda x, labels: np.sign(minmax.forward(x, labels, **options).coefficients)


def numeric_gradient(loss, features, step):
    """Central differences of loss(features), n x d float64."""
    numeric = np.empty(features.shape)
    for index in np.ndindex(features.shape):
        side = []
        for sign in (1, -1):
            moved = features.copy()
            moved[index] += sign * step
            side.append(float(loss(moved)))
        numeric[index] = (side[0] - side[1]) / (2 * step)
    return numeric
