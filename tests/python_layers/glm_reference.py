"""Reference implementation of the GLM loss and its gradient: float64, loops, the paper's equations.

Slow and literal on purpose: it builds the matrices G, D and Psi of Eqs. (7) and (8) for each pair
of classes, as the paper writes them, and shares no code with python_layers.
"""

import numpy as np


def nearest_pairs(x, p_set, q_set, k):
    """zeta_k(S_p, S_q): the k nearest (i, j), i in S_p, j in S_q; all if there are fewer."""
    pairs = [(np.sum((x[i] - x[j]) ** 2), i, j) for i in p_set for j in q_set]
    return [(i, j) for _, i, j in sorted(pairs)[:k]]


def laplacian(x, p_set, q_set, k):
    """Psi(p,q) of Eq. (7), and the number of pairs in it."""
    g = np.zeros((len(x), len(x)))
    pairs = nearest_pairs(x, p_set, q_set, k)
    for i, j in pairs:
        g[i, j] = g[j, i] = 1
    return np.diag(g.sum(axis=1)) - g, len(pairs)


def glm(
    x,
    labels,
    margins,
    k=1,
    within_gradient="exact",
    normalize=False,
    classes=None,
    scale=1,
    anchors=None,
):
    """(M, dM/dX, {"active": [...], "skipped": [...]}) by Eqs. (3)-(33), h levels; x is n x d.

    anchors: the classes c of the mean are those of this number of first samples; None: of all.
    """
    raw = np.asarray(x, dtype=np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True) if normalize else raw
    x = scale * unit
    n, h = len(x), len(labels)
    big_h = x.T  # H = [x_1, ..., x_n]
    fine = sorted(set(labels[0]))
    members = {c: [i for i in range(n) if labels[0][i] == c] for c in fine}
    ancestor = {c: [level[members[c][0]] for level in labels] for c in fine}

    def between(p, q):
        psi, pairs = laplacian(x, members[p], members[q], k)
        product = big_h @ psi
        return np.sum(product * big_h) / pairs, 2 / pairs * product  # tr(H Psi H^T), without d x d

    total, gradient = 0.0, np.zeros_like(big_h)
    active, skipped = np.zeros(h), np.zeros(h)
    meant = sorted(set(labels[0][:anchors]))
    for c in meant:
        others = [o for o in fine if o != c]
        mean = np.mean([x[i] for i in members[c]], axis=0)
        n_c = len(members[c])
        within = sum(np.sum((x[i] - mean) ** 2) for i in members[c]) / n_c
        for j in range(h):
            level = max(j, 1)
            near_set = [o for o in others if h == 1 or ancestor[o][level] == ancestor[c][level]]
            far_set = [o for o in others if o not in near_set]
            if not near_set or (j > 0 and not far_set):
                skipped[j] += 1
                continue
            if j == 0:
                distance, closest = min((between(c, o)[0], o) for o in near_set)
                m = within - distance + margins[0]
            else:
                largest, farthest = max(
                    ((between(c, o)[0], o) for o in near_set), key=lambda pair: pair[0]
                )
                distance, closest = min((between(c, o)[0], o) for o in far_set)
                m = largest - distance + margins[j]
            if m <= 0:
                continue
            active[j] += 1
            total += m
            gradient -= between(c, closest)[1]
            if j > 0:
                gradient += between(c, farthest)[1]
                continue
            factor = 1 - 1 / n_c if within_gradient == "paper" else 1
            for i in members[c]:
                gradient[:, i] += 2 / n_c * factor * (x[i] - mean)
    averaged_over = classes or len(meant)
    gradient = gradient.T / averaged_over
    if normalize:
        length = np.linalg.norm(raw, axis=1, keepdims=True)
        along = unit * np.sum(unit * gradient, axis=1, keepdims=True)
        gradient = scale * (gradient - along) / length
    return (
        total / averaged_over,
        gradient,
        {"active": active / len(meant), "skipped": skipped / len(meant)},
    )


def random_tree(rng, levels, fine_classes):
    """An array fine_classes x levels of labels: a random tree, with singletons and empty SPs."""
    labels = [np.arange(fine_classes)]
    for level in range(1, levels):
        parents = max(2, fine_classes // 3**level)
        parent_of = rng.integers(parents, size=labels[-1].max() + 1)
        labels.append(parent_of[labels[-1]])
    return np.array(labels).T
