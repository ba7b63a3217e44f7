"""Reference implementations of the contrastive and the triplet loss: float64, loops.

Slow and literal on purpose; shares no code with python_layers. Each returns (loss, dLoss/dX).
anchors: the terms are those whose first sample is among this number of first samples; None: all.
"""

import numpy as np


def _on_the_sphere(loss):
    """Adds `normalize` to a loss(x, y, ...): features to length `scale`, and the chain rule."""

    def normalized(x, y, normalize=False, scale=1, **options):
        raw = np.asarray(x, dtype=np.float64)
        if not normalize:
            return loss(raw, y, **options)
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        u = raw / length
        value, gradient = loss(scale * u, y, **options)
        return value, scale * (gradient - u * np.sum(u * gradient, axis=1, keepdims=True)) / length

    return normalized


@_on_the_sphere
def contrastive(x, y, margin=1.0, average="pairs", anchors=None):
    sums = {True: 0.0, False: 0.0}
    gradients = {True: np.zeros_like(x), False: np.zeros_like(x)}
    pairs = {True: 0, False: 0}
    for i in range(len(x))[:anchors]:
        for j in range(len(x)):
            if i == j:
                continue
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


def triplets(x, y, mining, anchors=None):
    """All triplets (a, p, n) that `mining` chooses: p of a's class, n of another class."""
    n = len(x)
    return mined_triplets(
        x,
        [[i for i in range(n) if y[i] == y[a] and i != a] for a in range(n)],
        [[i for i in range(n) if y[i] != y[a]] for a in range(n)],
        mining,
        anchors,
    )


def mined_triplets(x, positives_of, negatives_of, mining, anchors=None):
    """All triplets (a, p, n) that `mining` chooses, of the positives and negatives of each a."""
    square = [[np.sum((a - b) ** 2) for b in x] for a in x]
    chosen = []
    for a in range(len(x))[:anchors]:
        positives, negatives = positives_of[a], negatives_of[a]
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
def triplet(x, y, margin=0.2, mining="semihard", average="active", anchors=None):
    mined = triplets(x, y, mining, anchors)
    total, gradient, active = hinges(x, mined, margin)
    counted = max(active if average == "active" else len(mined), 1)
    return total / counted, gradient / counted


def hinges(x, triplets, margin):
    """(sum of [D_ap - D_an + margin]_+, its gradient, number of hinges above 0)."""
    total, gradient, active = 0.0, np.zeros_like(x), 0
    for a, p, n in triplets:
        hinge = np.sum((x[a] - x[p]) ** 2) - np.sum((x[a] - x[n]) ** 2) + margin
        if hinge <= 0:
            continue
        active += 1
        total += hinge
        gradient[a] += 2 * (x[a] - x[p]) - 2 * (x[a] - x[n])
        gradient[p] -= 2 * (x[a] - x[p])
        gradient[n] += 2 * (x[a] - x[n])
    return total, gradient, active


@_on_the_sphere
def gtl(x, labels, margins, mining="semihard", average="mined", anchors=None):
    """labels: h vectors, from the fine level up."""
    h, n = len(labels), len(x)

    def group(a, i):
        """The lowest level whose label a and i share, from 0; h if they share none."""
        return next((j for j in range(h) if labels[j][a] == labels[j][i]), h)

    groups = [
        [[i for i in range(n) if i != a and group(a, i) == j] for a in range(n)]
        for j in range(h + 1)
    ]
    loss, gradient = 0.0, np.zeros_like(x)
    for j in range(h):
        margin = margins[j] - (margins[j + 1] if j + 1 < h else 0)
        mined = mined_triplets(x, groups[j], groups[j + 1], mining, anchors)
        total, of_link, active = hinges(x, mined, margin)
        counted = max(active if average == "active" else len(mined), 1)
        loss += total / (2 * counted)
        gradient += of_link / (2 * counted)
    return loss, gradient
