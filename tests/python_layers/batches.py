"""Random batches for the losses: features and labels of a tree."""

import numpy as np
from glm_twin import random_tree

from python_layers import glm


def random_batch(seed, levels, samples=24, fine_classes=8, dimensions=10, scale=1.0):
    """(features, labels, margins); the margins are of the size of the distances."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, levels, fine_classes)
    labels = tree[rng.integers(fine_classes, size=samples)].T
    features = rng.normal(scale=scale, size=(samples, dimensions)).astype(np.float32)
    margins = list(rng.uniform(10, 30, size=levels) * scale**2)
    return features, labels, margins


def smooth_batch(step, levels, margins, **options):
    """(features, labels) of the first seed where finite differences of `step` mean something.

    The loss is not differentiable where two pairs tie for nearest or two classes for closest. The
    batch returned selects the same pairs wherever one component moves by `step`.
    """
    for seed in range(100):
        features, labels, _ = random_batch(seed, levels, samples=12, dimensions=4)

        def selection(x):
            return glm.forward(x, labels, margins, **options).coefficients != 0

        expected = selection(features)
        moves = (sign * step * np.eye(1, features.size, i).reshape(features.shape)
                 for i in range(features.size) for sign in (1, -1))
        if expected.any() and all((selection(features + move) == expected).all()
                                  for move in moves):
            return features, labels
    raise AssertionError(f"no smooth batch among 100 seeds for a step of {step}")
