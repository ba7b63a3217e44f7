"""The contrastive and the triplet loss a second time: float64, one pair or triplet after the other.

Slow and literal on purpose; shares no code with python_layers. Each returns (loss, dLoss/dX).
"""

import numpy as np


def _on_the_sphere(loss):
    """Adds `normalize` to a loss(x, y, ...): features to length 1, and the chain rule."""

    def normalized(x, y, normalize=False, **options):
        raw = np.asarray(x, dtype=np.float64)
        if not normalize:
            return loss(raw, y, **options)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        x = raw / length
        value, gradient = loss(x, y, **options)
        return value, (gradient - x * np.sum(x * gradient, axis=1, keepdims=True)) / length

    return normalized


@_on_the_sphere
def contrastive(x, y, margin=1.0, average="pairs"):
    sums = {True: 0.0, False: 0.0}
    gradients = {True: np.zeros_like(x), False: np.zeros_like(x)}
    pairs = {True: 0, False: 0}
    for i in range(len(x)):
        for j in range(i):
            same, away = bool(y[i] == y[j]), x[i] - x[j]
            pairs[same] += 1
            distance = np.sqrt(away @ away)
            if same:
                sums[same] += distance**2
                move = 2 * away
            elif distance < margin:
                sums[same] += (margin - distance) ** 2
                move = -2 * (margin - distance) * away / distance if distance else 0 * away
            else:
                continue
            gradients[same][i] += move
            gradients[same][j] -= move
    loss, gradient = 0.0, np.zeros_like(x)
    for kind, count in pairs.items():
        count = count if average == "kinds" else sum(pairs.values())
        if count:
            loss += sums[kind] / (2 * count)
            gradient += gradients[kind] / (2 * count)
    return loss, gradient


def triplets(x, y, mining):
    """All triplets (a, p, n) that `mining` chooses."""
    square = [[np.sum((a - b) ** 2) for b in x] for a in x]
    chosen = []
    for a in range(len(x)):
        positives = [i for i in range(len(x)) if y[i] == y[a] and i != a]
        negatives = [i for i in range(len(x)) if y[i] != y[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            positives = [max(positives, key=lambda p: square[a][p])]
        for p in positives:
            taken = negatives
            if mining == "hard":
                taken = [min(negatives, key=lambda n: square[a][n])]
            if mining == "semihard":
                farther = [n for n in negatives if square[a][n] > square[a][p]]
                taken = [
                    min(farther, key=lambda n: square[a][n])
                    if farther
                    else max(negatives, key=lambda n: square[a][n])
                ]
            chosen += [(a, p, n) for n in taken]
    return chosen


@_on_the_sphere
def triplet(x, y, margin=0.2, mining="semihard", average="active"):
    total, gradient, active, mined = 0.0, np.zeros_like(x), 0, triplets(x, y, mining)
    for a, p, n in mined:
        hinge = np.sum((x[a] - x[p]) ** 2) - np.sum((x[a] - x[n]) ** 2) + margin
        if hinge <= 0:
            continue
        active += 1
        total += hinge
        gradient[a] += 2 * (x[a] - x[p]) - 2 * (x[a] - x[n])
        gradient[p] -= 2 * (x[a] - x[p])
        gradient[n] += 2 * (x[a] - x[n])
    counted = max(active if average == "active" else len(mined), 1)
    return total / counted, gradient / counted
