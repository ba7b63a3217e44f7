"""Reference implementations of the losses of scores: float64, loops, all label combinations.

Slow and literal on purpose; shares no code with python_layers.
"""

import itertools

import numpy as np


def random_ancestors(rng, levels, fine_classes):
    """C x h: a random tree whose ids are 0, 1, 2 ... at every level."""
    columns = [np.arange(fine_classes)]
    for level in range(1, levels):
        parents, children = max(2, fine_classes // 2**level), columns[-1].max() + 1
        of_child = rng.permutation(np.arange(children) % parents)
        columns.append(of_child[columns[-1]])
    return np.array(columns).T


def hierarchy_text(ancestors):
    """The hierarchy.tsv of C x h ancestors."""
    levels = [f"level{j}" for j in range(ancestors.shape[1])]
    lines = ["\t".join(f"{level}_id\t{level}" for level in levels)]
    lines += ["\t".join(f"{i}\t{level}-{i}" for level, i in zip(levels, row)) for row in ancestors]
    return "\n".join(lines) + "\n"


def bgl(scores, labels, graphs):
    """(L, p n x C) by enumeration of all (i, c_1 .. c_m)."""
    n, fine = len(scores[0]), scores[0].shape[1]
    loss, marginals = 0.0, np.zeros((n, fine))
    scores = [values.astype(np.float64) for values in scores]
    for sample in range(n):
        joint = {}
        for i in range(fine):
            for rest in itertools.product(*(range(graph.shape[1]) for graph in graphs)):
                if all(graph[i, c] for graph, c in zip(graphs, rest)):
                    energy = scores[0][sample, i]
                    energy += sum(f[sample, c] for f, c in zip(scores[1:], rest))
                    joint[(i, *rest)] = np.exp(energy)
        z = sum(joint.values())
        for place, label in enumerate(labels):
            share = sum(p for key, p in joint.items() if key[place] == label[sample]) / z
            loss -= np.log(share) / n
        for key, p in joint.items():
            marginals[sample, key[0]] += p / z
    return loss, marginals


def softmax(values):
    exponentials = np.exp(values - np.max(values))
    return exponentials / exponentials.sum()


def cross_entropy(scores, labels, ancestors, alpha):
    """(L, p) of the hierarchical cross-entropy, by the definition with P_l / P_{l+1}."""
    n, loss, all_p = len(scores[0]), 0.0, []
    for f, y in zip(scores[0].astype(np.float64), labels[0]):
        p = softmax(f)
        all_p.append(p)
        of_path = [p[ancestors[:, j] == ancestors[y, j]].sum() for j in range(ancestors.shape[1])]
        for j, (lower, upper) in enumerate(zip(of_path, [*of_path[1:], 1.0])):
            loss -= np.exp(-alpha * j) * np.log(lower / upper) / n
    return loss, np.array(all_p)


def soft_labels(scores, labels, ancestors, beta):
    n, h = len(scores[0]), ancestors.shape[1]
    loss, all_p = 0.0, []
    for f, y in zip(scores[0].astype(np.float64), labels[0]):
        p = softmax(f)
        all_p.append(p)
        weights = []
        for i in range(len(p)):
            common = [j for j in range(h) if ancestors[i, j] == ancestors[y, j]]
            weights.append(np.exp(-beta * min(common, default=h) / h))
        loss -= np.sum(np.array(weights) / np.sum(weights) * np.log(p)) / n
    return loss, np.array(all_p)


def conditional(scores, labels, ancestors):
    n, (fine, h) = len(scores[0]), ancestors.shape
    loss, all_p = 0.0, np.ones((n, fine))
    for sample in range(n):
        for i in range(fine):
            for j in range(h):
                siblings = sorted(
                    {
                        ancestors[k, j]
                        for k in range(fine)
                        if j + 1 == h or ancestors[k, j + 1] == ancestors[i, j + 1]
                    }
                )
                p = softmax(scores[j][sample, siblings].astype(np.float64))
                all_p[sample, i] *= p[siblings.index(ancestors[i, j])]
        loss -= np.log(all_p[sample, labels[0][sample]]) / n
    return loss, all_p
