"""tools/recognition/decode.py against enumeration of every path, in Python numbers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from data_prep.label_tree import Hierarchy
from tools.recognition import answers, decode


def tree(rng, depth):
    """A random Hierarchy of `depth` levels, in which some classes have one child."""
    sizes = [int(rng.integers(2, 13))]
    labels = [np.arange(sizes[0])]
    for _ in range(depth - 1):
        parents = rng.integers(0, max(1, sizes[-1] * 2 // 3), sizes[-1])
        _, parents = np.unique(parents, return_inverse=True)
        sizes.append(int(parents.max()) + 1)
        labels.append(parents[labels[-1]])
    names = [[f"{level}.{i}" for i in range(size)] for level, size in enumerate(sizes)]
    return Hierarchy([f"level_{j}" for j in range(depth)], np.stack(labels, axis=1), names)


def softmax(rng, count, classes, sharpness):
    scores = sharpness * rng.normal(size=(count, classes))
    found = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def distance(path, other):
    """Levels below the lowest common ancestor of two fine classes, from their paths."""
    return next((j for j, pair in enumerate(zip(path, other)) if pair[0] == pair[1]), len(path))


CASES = list(itertools.product((1, 2, 3, 5), (0.5, 3, 40), (False, True)))


@pytest.mark.parametrize("depth, sharpness, all_levels", CASES)
def test_every_rule_against_enumeration(depth, sharpness, all_levels):
    rng = np.random.default_rng(depth)
    hierarchy = tree(rng, depth)
    paths = hierarchy.labels.tolist()
    levels = [j for j in range(depth) if not j or all_levels or j == depth - 1]
    found = {j: softmax(rng, 20, hierarchy.sizes[j], sharpness) for j in levels}
    decided = {rule: decode.decide(hierarchy, found, rule, top=3) for rule in decode.RULES}
    top = min(3, len(paths))
    for i in range(20):
        fine = [float(p) for p in found[0][i]]
        products = [
            math.prod(Fraction(max(float(found[j][i][path[j]]), decode.SMALLEST)) for j in levels)
            for path in paths
        ]
        expected = [
            math.fsum(p * distance(path, other) for p, other in zip(fine, paths)) for path in paths
        ]
        order = range(len(paths))
        best = {
            "fine": sorted(order, key=lambda c: -fine[c])[:top],
            "joint": sorted(order, key=lambda c: -products[c])[:top],
        }
        best["own"] = best["fine"]
        for rule, wanted in best.items():
            assert decided[rule].best[i].tolist() == wanted
        # Expectations of classes with few differing levels tie but for rounding.
        risks = [expected[c] for c in decided["risk"].best[i]]
        np.testing.assert_allclose(risks, sorted(expected)[:top], atol=1e-6)
        for rule in ("fine", "joint", "risk"):
            assert decided[rule].path[i].tolist() == paths[decided[rule].best[i][0]]
        own = list(paths[best["fine"][0]])
        for j in levels:
            own[j] = int(np.argmax(found[j][i]))
        assert decided["own"].path[i].tolist() == own
        for rule, one in decided.items():
            for k, c in enumerate(one.best[i]):
                assert one.distance[i, k] == pytest.approx(expected[c], abs=1e-6), rule
                assert one.joint[i, k] == pytest.approx(
                    float(products[c] / sum(products)), abs=1e-6
                )
            if len(levels) > 1:
                agree = own == paths[best["fine"][0]]
                assert bool(one.agree[i]) is agree
            else:
                assert one.agree is None
            for j in range(depth):
                for g in range(hierarchy.sizes[j]):
                    below = math.fsum(p for p, path in zip(fine, paths) if path[j] == g)
                    assert one.from_fine[j][i, g] == pytest.approx(below, abs=1e-6)


def test_the_rules_differ():
    """A photograph of which every rule says something else."""
    hierarchy = Hierarchy(
        ("kind", "group"),
        [[0, 0], [1, 1], [2, 1], [3, 2]],
        [["a", "b", "c", "d"], ["A", "B", "D"]],
    )
    found = {0: np.array([[0.36, 0.30, 0.29, 0.05]]), 1: np.array([[0.05, 0.35, 0.6]])}
    paths = {rule: decode.decide(hierarchy, found, rule).path[0].tolist() for rule in decode.RULES}
    assert paths == {"own": [0, 2], "fine": [0, 0], "joint": [1, 1], "risk": [1, 1]}
    found[1] = np.array([[0.05, 0.05, 0.9]])
    assert decode.decide(hierarchy, found, "joint").path[0].tolist() == [3, 2]
    assert decode.joint(hierarchy.labels, found).tolist() == [3]
    assert decode.risk(hierarchy.labels, found).tolist() == [1]


def test_zeros_and_ties():
    hierarchy = Hierarchy(("kind", "group"), [[0, 0], [1, 0], [2, 1]], [list("abc"), list("AB")])
    found = {0: np.array([[0.0, 0.5, 0.5]]), 1: np.array([[1.0, 0.0]])}
    assert decode.decide(hierarchy, found, "joint", 3).best.tolist() == [[1, 0, 2]]
    assert decode.decide(hierarchy, {0: np.full((1, 3), 1 / 3)}, "fine", 3).best.tolist() == [
        [0, 1, 2]
    ]
    assert np.isfinite(decode.decide(hierarchy, found, "joint", 3).joint).all()


def test_answers_have_names():
    hierarchy = Hierarchy(("kind", "group"), [[0, 0], [1, 0], [2, 1]], [list("abc"), list("AB")])
    found = {0: np.array([[0.2, 0.5, 0.3]]), 1: np.array([[0.1, 0.9]])}
    (answer,) = answers.of(["x.jpg"], hierarchy, found, "own", top=9)
    kind, group = answer.levels
    assert (kind.predicted, kind.own, kind.probability) == ("b", "b", 0.5)
    assert (group.predicted, group.own, group.probability) == ("B", "B", 0.9)
    assert group.from_fine == pytest.approx(0.3) and answer.agree is False
    assert [each.path for each in answer.best] == [("b", "A"), ("c", "B"), ("a", "A")]
    shown = answers.Text(hierarchy.levels, 3).one(answer)
    assert "the levels' classifiers disagree" in shown and "1.  b < A  50.0%" in shown
    (answer,) = answers.of(["x.jpg"], hierarchy, found, "joint", top=2)
    shown = answers.Text(hierarchy.levels, 2).one(answer)
    assert "1." not in shown and "2.  b < A  50.0%" in shown
    assert "the classifier of kind alone: b" in shown
