"""tools/metrics against loops over images, classes and levels, and against others' packages."""

import numpy as np
import pytest

from data_prep.label_tree import Hierarchy
from tools import scores
from tools.metrics import calibration, intervals, ranks, retrieval, tree
from tools.metrics.collect import DECODINGS, Collector

IMAGES = 60


def random_tree(rng, sizes):
    """Hierarchy of levels with these numbers of classes; every class has a child."""
    columns = [np.arange(sizes[0])]
    for below, size in zip(sizes, sizes[1:]):
        parents = np.concatenate([np.arange(size), rng.integers(size, size=below - size)])
        columns.append(rng.permutation(parents)[columns[-1]])
    names = [[f"{j}.{i}" for i in range(size)] for j, size in enumerate(sizes)]
    return Hierarchy([f"level{j}" for j in range(len(sizes))], np.stack(columns, 1), names)


@pytest.fixture(params=[(30, 9, 4), (7,), (25, 25, 3, 1)], ids=str)
def case(request):
    """(Hierarchy, true labels N x h, {level: scores}, answers N x h), with ties."""
    rng = np.random.default_rng(len(request.param))
    hierarchy = random_tree(rng, request.param)
    labels = hierarchy.labels[rng.integers(hierarchy.sizes[0], size=IMAGES)]
    outputs = {}
    for level, size in enumerate(hierarchy.sizes):
        found = np.round(rng.normal(size=(IMAGES, size)), 1)  # with ties
        found[np.arange(IMAGES), labels[:, level]] += rng.random(IMAGES) < 0.6
        outputs[level] = found.astype(np.float32)
    answers = np.stack([output.argmax(axis=1) for output in outputs.values()], axis=1)
    return hierarchy, labels, outputs, answers


def path(hierarchy, level, number):
    """The nodes (level, class) from a class up to the top, by walking up the rows of the tree."""
    row = next(row for row in hierarchy.labels if row[level] == number)
    return [(j, int(row[j])) for j in range(level, len(row))]


def height_of_common_ancestor(hierarchy, a, b):
    common = [node for node in path(hierarchy, 0, a) if node in path(hierarchy, 0, b)]
    return common[0][0] if common else len(hierarchy.levels)


def test_distance_is_the_height_of_the_lowest_common_ancestor(case):
    hierarchy, *_ = case
    every = np.arange(hierarchy.sizes[0])
    found = tree.distance(hierarchy.labels, every[:, None], every)
    for a in every:
        for b in every:
            assert found[a, b] == height_of_common_ancestor(hierarchy, a, b)


def test_ranks_and_the_best(case):
    hierarchy, labels, outputs, _ = case
    for level, output in outputs.items():
        found = ranks.rank_of(output, labels[:, level])
        best = ranks.best(output, min(3, output.shape[1]))
        for row, true, rank, first in zip(output, labels[:, level], found, best):
            order = sorted(range(len(row)), key=lambda c: (-row[c], c))
            assert order.index(true) == rank and order[: len(first)] == first.tolist()
            top = scores.in_top(row[None], np.array([true]), 3)[0]
            assert top == (rank < 3)
        shares = ranks.top(found, hierarchy.sizes[level])
        assert all(int(k) < hierarchy.sizes[level] for k in shares)
        for k, share in shares.items():
            assert share == pytest.approx(sum(rank < int(k) for rank in found) / IMAGES)


def test_valid_paths_and_sets_of_answers(case):
    hierarchy, labels, _, answers = case
    valid = tree.valid_paths(hierarchy.labels, answers)
    common, predicted, actual = tree.overlaps(hierarchy.labels, answers, labels)
    rows = {tuple(row) for row in hierarchy.labels.tolist()}
    for i in range(IMAGES):
        assert valid[i] == (tuple(answers[i].tolist()) in rows)
        said = {node for level, c in enumerate(answers[i]) for node in path(hierarchy, level, c)}
        true = set(path(hierarchy, 0, labels[i, 0]))
        assert (common[i], predicted[i], actual[i]) == (len(said & true), len(said), len(true))


def test_hierarchical_precision_and_recall_are_those_of_hiclass(case):
    metrics = pytest.importorskip(
        "hiclass.metrics", reason="no hiclass: pip install -r docker/requirements-compare.txt"
    )
    hierarchy, labels, _, answers = case

    def paths(rows):  # N x h x h: per level the answer and its ancestors, "" for finer levels
        named = [
            [
                [""] * level + [f"{j}.{c}" for j, c in path(hierarchy, level, number)]
                for level, number in enumerate(row)
            ]
            for row in rows
        ]
        return np.array(named)

    common, predicted, actual = (
        sum(part) for part in tree.overlaps(hierarchy.labels, answers, labels)
    )
    true, said = paths(labels), paths(answers)
    assert common / predicted == pytest.approx(metrics.precision(true, said))
    assert common / actual == pytest.approx(metrics.recall(true, said))
    assert 2 * common / (predicted + actual) == pytest.approx(metrics.f1(true, said))


def naive_risk(hierarchy, chances):
    """Expected distance of each fine class from the truth."""
    count = hierarchy.sizes[0]
    return [
        sum(chances[c] * height_of_common_ancestor(hierarchy, c, d) for c in range(count))
        for d in range(count)
    ]


@pytest.mark.parametrize("batch", [1, 7, IMAGES])
def test_collected_in_batches(case, batch):
    hierarchy, labels, outputs, answers = case
    found = Collector(hierarchy, labels, outputs)
    for start in range(0, IMAGES, batch):
        found.add(start, {j: output[start : start + batch] for j, output in outputs.items()})
    np.testing.assert_array_equal(found.answers("own"), answers)
    np.testing.assert_array_equal(found.answers("fine"), hierarchy.labels[answers[:, 0]])
    sure = {j: scores.softmax(output) for j, output in outputs.items()}
    for i in range(0, IMAGES, 5):
        order = sorted(range(hierarchy.sizes[0]), key=lambda c: (-outputs[0][i, c], c))
        far = [height_of_common_ancestor(hierarchy, c, labels[i, 0]) for c in order]
        for k, value in zip(found.distance_ks, found.distances[i]):
            assert value == pytest.approx(np.mean(far[:k]))
        for level, ranked in found.sums_ranks.items():
            sums = [0.0] * hierarchy.sizes[level]
            for c in range(hierarchy.sizes[0]):
                sums[hierarchy.labels[c, level]] += sure[0][i, c]
            better = sum(value > sums[labels[i, level]] + 1e-9 for value in sums)
            assert ranked[i] >= better
            assert ranked[i] <= sum(value > sums[labels[i, level]] - 1e-9 for value in sums) - 1
        products = [np.prod([sure[j][i, c] for j, c in enumerate(row)]) for row in hierarchy.labels]
        assert products[found.decoded["joint"][i]] == pytest.approx(max(products))
        risk = naive_risk(hierarchy, sure[0][i])
        assert risk[found.decoded["risk"][i]] == pytest.approx(min(risk))
    for decoding in DECODINGS[1:]:
        assert tree.valid_paths(hierarchy.labels, found.answers(decoding)).all()


@pytest.mark.parametrize("sharp", [0.2, 1, 30])
def test_calibration(sharp):
    rng = np.random.default_rng(3)
    sure = scores.softmax(sharp * rng.normal(size=(200, 4))).max(axis=1)
    sure[:3] = 1, 0.4, 1 / 3  # on the edges of bins
    right = rng.random(200) < sure**2
    found, expected, bins = calibration.calibration(sure, right), 0.0, []
    for i in range(calibration.BINS):
        low, high = i / calibration.BINS, (i + 1) / calibration.BINS
        inside = [n for n in range(200) if low < sure[n] <= high]
        if inside:
            confidence = sum(sure[n] for n in inside) / len(inside)
            accuracy = sum(right[n] for n in inside) / len(inside)
            expected += len(inside) / 200 * abs(accuracy - confidence)
            bins.append((len(inside), confidence, accuracy))
    assert found.ece.value == pytest.approx(expected)
    assert [(b.images, b.confidence, b.accuracy) for b in found.bins] == [
        pytest.approx(one) for one in bins
    ]
    low, high = found.ece.interval
    assert 0 <= low < high <= 1


def embedded(count=90, wide=12):
    """Features around the center of their class, labels N x 2; class 9 has one image."""
    rng = np.random.default_rng(5)
    fine = rng.integers(9, size=count)
    fine[7] = 9
    features = (rng.normal(size=(10, wide))[fine] + rng.normal(size=(count, wide))).astype("f4")
    return features, np.stack([fine, fine // 4], axis=1)


def naive_retrieval(features, classes):
    """(first ranks, average precisions) of the queries whose class has another image."""
    first, precision = [], []
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1)[:, None]
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        others.sort(key=lambda j: -unit[i] @ unit[j])
        same = [classes[j] == classes[i] for j in others]
        if any(same):
            first.append(same.index(True) + 1)
            hits = [sum(same[: r + 1]) / (r + 1) for r in range(len(same)) if same[r]]
            precision.append(sum(hits) / len(hits))
    return first, precision


@pytest.mark.parametrize("cells", [1 << 21, 200])
def test_retrieval(monkeypatch, cells):
    """In one block, and in many."""
    monkeypatch.setattr(retrieval, "CELLS", cells)
    monkeypatch.setattr(retrieval, "NUMBERS", 20 * cells)
    features, labels = embedded()
    found = retrieval.retrieval(features, labels, ("kind", "group"))
    assert [one.level for one in found] == ["kind", "group"]
    for j, one in enumerate(found):
        first, precision = naive_retrieval(features, labels[:, j])
        assert one.queries == len(first)
        for k in retrieval.KS:
            assert one.recall[str(k)].value == pytest.approx(np.mean(np.array(first) <= k))
        assert one.mean_average_precision.value == pytest.approx(np.mean(precision))


def test_retrieval_is_that_of_pytorch_metric_learning():
    reason = "no pytorch-metric-learning: pip install -r docker/requirements-compare.txt"
    torch = pytest.importorskip("torch", reason=reason)
    calculators = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", reason=reason
    )
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.inference import CustomKNN

    features, labels = embedded()
    calculator = calculators.AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k=None,
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    for j, one in enumerate(retrieval.retrieval(features, labels, ("kind", "group"))):
        known = np.bincount(labels[:, j])[labels[:, j]] > 1
        expected = calculator.get_accuracy(
            torch.tensor(features[known]), torch.tensor(labels[known, j])
        )
        queries = features[known], labels[known][:, j : j + 1]
        (again,) = retrieval.retrieval(*queries, ("one",))
        assert again.recall["1"].value == pytest.approx(expected["precision_at_1"])
        assert again.mean_average_precision.value == pytest.approx(
            expected["mean_average_precision"]
        )
        assert one.queries == again.queries


def test_queries_of_large_sets_are_spread():
    found = retrieval.chosen(12345)
    assert len(found) == retrieval.QUERIES == len(set(found.tolist()))
    assert found[0] == 0 and 12300 < found[-1] < 12345


def test_features_without_length_and_without_company():
    features = np.zeros((4, 3), np.float32)
    features[1] = 2
    labels = np.array([[0], [1], [2], [3]])
    assert retrieval.retrieval(features, labels, ("kind",)) == []
    (found,) = retrieval.retrieval(features, labels // 2, ("pair",))
    assert found.queries == 4 and 0 <= found.mean_average_precision.value <= 1


def test_intervals_cover_as_often_as_they_say():
    """The bootstrap's interval of a mean, against its normal approximation."""
    rng = np.random.default_rng(2)
    values = rng.random(2000)
    found = intervals.ratios({"mean": (values, np.ones(2000))})["mean"]
    reach = 1.96 * values.std() / 2000**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.interval == pytest.approx((found.value - reach, found.value + reach), abs=0.002)


def test_intervals_are_the_same_in_small_steps(monkeypatch):
    rng = np.random.default_rng(2)
    figures = {i: (rng.random(50), np.ones(50)) for i in range(3)}
    whole = intervals.ratios(figures)
    monkeypatch.setattr(intervals, "MOST", 1000)
    assert intervals.ratios(figures) == whole
    alone = intervals.ratios({1: figures[1]})
    assert alone[1].interval == pytest.approx(whole[1].interval)


def test_ratios_that_are_undefined():
    one = np.eye(4)[0]
    found = intervals.ratios({"none": (one, np.zeros(4)), "rare": (one, one)})
    assert found["none"] is None
    assert found["rare"] == intervals.Estimate(1.0, None)  # some resamples have no such image
    single = intervals.ratios({"mean": (np.ones(1), np.ones(1))})["mean"]
    assert single == intervals.Estimate(1.0, None)
