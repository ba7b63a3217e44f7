"""Losses of scores that use the label tree: maths against references, and the layers in Caffe."""

import json
from dataclasses import dataclass

import caffe
import numpy as np
import pytest
import score_references
from batches import numeric_gradient
from caffe.proto import caffe_pb2
from fake_cupy import make_cupy
from google.protobuf import text_format
from score_references import hierarchy_text, random_ancestors
from test_gradient_check import STEP, THRESHOLD, assert_passed, gradient_check  # noqa: F401

from python_layers import bgl, hierarchical, label_tree

pytestmark = pytest.mark.filterwarnings("error")

CLASSES, LEVELS, ATTRIBUTES = 7, 3, 4


@dataclass(frozen=True)
class Case:
    """A loss on one tree.

    forward(scores, labels, tree, graphs), reference(scores, labels, ancestors, graphs): all levels
    are given, of which `scores` and `labels` bottoms are the loss's.
    """

    layer: str
    parameters: dict
    scores: int
    labels: int
    forward: object
    reference: object


def all_graphs(tree):
    return [tree.graph(1), tree.graph(2)]


CASES = {
    "bgl": Case(
        "bgl_loss.BGLLossLayer",
        {},
        LEVELS,
        LEVELS,
        lambda scores, labels, tree: bgl.forward(scores, labels, all_graphs(tree)),
        lambda scores, labels, tree: score_references.bgl(scores, labels, all_graphs(tree)),
    ),
    "bgl-two-levels": Case(
        "bgl_loss.BGLLossLayer",
        {},
        2,
        2,
        lambda scores, labels, tree: bgl.forward(scores, labels, all_graphs(tree)[:1]),
        lambda scores, labels, tree: score_references.bgl(scores, labels, all_graphs(tree)[:1]),
    ),
    **{
        f"hxe-{alpha}": Case(
            "hxe_loss.HXELossLayer",
            {"alpha": alpha},
            1,
            1,
            lambda scores, labels, tree, alpha=alpha: hierarchical.cross_entropy(
                scores, labels, tree.ancestors, alpha
            ),
            lambda scores, labels, tree, alpha=alpha: score_references.cross_entropy(
                scores, labels, tree.ancestors, alpha
            ),
        )
        for alpha in (0, 0.1, 0.6, 3)
    },
    **{
        f"soft-{beta}": Case(
            "soft_label_loss.SoftLabelLossLayer",
            {"beta": beta},
            1,
            1,
            lambda scores, labels, tree, beta=beta: hierarchical.soft_labels(
                scores, labels, hierarchical.soft_targets(tree.distances(), beta)
            ),
            lambda scores, labels, tree, beta=beta: score_references.soft_labels(
                scores, labels, tree.ancestors, beta
            ),
        )
        for beta in (0, 4, 30)
    },
    "conditional": Case(
        "conditional_softmax_loss.ConditionalSoftmaxLossLayer",
        {},
        LEVELS,
        1,
        lambda scores, labels, tree: hierarchical.conditional(
            scores, labels, tree.ancestors, tree.parents(), tree.children()
        ),
        lambda scores, labels, tree: score_references.conditional(scores, labels, tree.ancestors),
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path, 0)


def make_tree(folder, seed, levels=LEVELS):
    path = folder / "hierarchy.tsv"
    ancestors = random_ancestors(np.random.default_rng(seed), levels, CLASSES)
    path.write_text(hierarchy_text(ancestors))
    found = label_tree.read(str(path))
    assert np.array_equal(found.ancestors, ancestors)
    return found


def batch(case, tree, seed, samples=6, size=2.0):
    rng = np.random.default_rng(seed)
    scores = [
        rng.normal(scale=size, size=(samples, n)).astype(np.float32)
        for n in tree.sizes[: case.scores]
    ]
    fine = rng.integers(CLASSES, size=samples)
    return scores, [tree.ancestors[fine, level] for level in range(case.labels)]


@each_case
def test_agrees_with_the_reference(tmp_path, case):
    for seed in range(3):
        tree = make_tree(tmp_path, seed)
        scores, labels = batch(case, tree, seed)
        terms = case.forward(scores, labels, tree)
        loss, probabilities = case.reference(scores, labels, tree)
        assert terms.loss == pytest.approx(loss, rel=1e-9)
        assert terms.probabilities == pytest.approx(probabilities, rel=1e-9)
        assert terms.probabilities.sum(axis=1) == pytest.approx(np.ones(len(scores[0])))


@each_case
def test_gradients_are_derivatives(tree, case):
    scores, labels = batch(case, tree, 1)
    scores = [values.astype(np.float64) for values in scores]
    gradients = case.forward(scores, labels, tree).gradients
    assert len(gradients) == case.scores
    for level, gradient in enumerate(gradients):

        def loss(moved, level=level):
            return case.forward([*scores[:level], moved, *scores[level + 1 :]], labels, tree).loss

        numeric = numeric_gradient(loss, scores[level], 1e-6)
        assert gradient == pytest.approx(numeric, abs=1e-8) and gradient.any()


@each_case
@pytest.mark.parametrize("size", [1e-40, 1e3, 1e14])
def test_scores_of_any_size(tree, case, size):
    """No overflow, no log of 0, gradients of at most 1 + m per sample."""
    scores, labels = batch(case, tree, 2, size=size)
    terms = case.forward(scores, labels, tree)
    assert np.isfinite(terms.loss) and np.isfinite(terms.probabilities).all()
    for gradient in terms.gradients:
        assert np.abs(gradient).max() <= (1 + case.labels) / len(gradient)


@pytest.mark.parametrize("case", [CASES["bgl"], CASES["bgl-two-levels"]])
def test_parts_of_a_large_batch_make_the_same(tree, case, monkeypatch):
    scores, labels = batch(case, tree, 3, samples=20)
    whole = case.forward(scores, labels, tree)
    monkeypatch.setattr(bgl, "CHUNK", 3 * CLASSES**2)
    parts = case.forward(scores, labels, tree)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert parts.probabilities == pytest.approx(whole.probabilities, rel=1e-12)
    for ours, expected in zip(parts.gradients, whole.gradients, strict=True):
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_alpha_zero_and_large_beta_are_the_cross_entropy(tree):
    scores, labels = batch(CASES["hxe-0"], tree, 4)
    p = np.array([score_references.softmax(f) for f in scores[0].astype(np.float64)])
    expected = -np.log(p[np.arange(len(p)), labels[0]]).mean()
    assert CASES["hxe-0"].forward(scores, labels, tree).loss == pytest.approx(expected)
    targets = hierarchical.soft_targets(tree.distances(), 700)
    loss = hierarchical.soft_labels(scores, labels, targets).loss
    assert loss == pytest.approx(expected)


def test_bgl_in_a_tree_is_a_softmax_of_summed_scores(tree):
    scores, labels = batch(CASES["bgl"], tree, 5)
    summed = sum(f[:, tree.ancestors[:, j]] for j, f in enumerate(scores)).astype(np.float64)
    expected = np.array([score_references.softmax(f) for f in summed])
    found = np.exp(bgl.log_marginals(scores, all_graphs(tree))[0])
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_graph_of_one_edge_per_class_as_a_vector(tree, monkeypatch):
    """The same loss, gradients and marginals as of the matrix, of all samples and in parts."""
    scores, labels = batch(CASES["bgl"], tree, 16)
    vectors = [tree.ancestors[:, level] for level in (1, 2)]
    for chunk in (bgl.CHUNK, 3 * CLASSES):
        monkeypatch.setattr(bgl, "CHUNK", chunk)
        for known in (3, 2, 1):  # label sets with labels
            one = bgl.forward(scores, labels[:known], vectors)
            other = bgl.forward(scores, labels[:known], all_graphs(tree))
            assert one.loss == pytest.approx(other.loss, rel=1e-12)
            for ours, expected in zip(one.gradients, other.gradients, strict=True):
                assert ours == pytest.approx(expected, rel=1e-9, abs=1e-15)
    marginals = bgl.log_marginals(scores, vectors)
    for ours, expected in zip(marginals, bgl.log_marginals(scores, all_graphs(tree)), strict=True):
        assert ours == pytest.approx(expected, rel=1e-12)


def attribute_table(folder, seed=0):
    """A random class x attribute table in which nothing is alone."""
    rng = np.random.default_rng(seed)
    graph = rng.random((CLASSES, ATTRIBUTES)) < 0.5
    graph[np.arange(CLASSES), np.arange(CLASSES) % ATTRIBUTES] = True
    rows = ["class\t" + "\t".join(f"attribute {c}" for c in range(ATTRIBUTES))]
    rows += [f"class {i}\t" + "\t".join(map(str, row.astype(int))) for i, row in enumerate(graph)]
    (folder / "attributes.tsv").write_text("\n".join(rows) + "\n")
    return str(folder / "attributes.tsv"), graph


def test_bgl_with_a_tree_and_a_graph_of_attributes(tmp_path, tree):
    path, graph = attribute_table(tmp_path)
    assert np.array_equal(label_tree.read_graph(path, CLASSES), graph)
    graphs = [tree.graph(1), graph]
    rng = np.random.default_rng(6)
    scores = [rng.normal(size=(5, n)) for n in (CLASSES, tree.sizes[1], ATTRIBUTES)]
    fine = rng.integers(CLASSES, size=5)
    labels = [fine, tree.ancestors[fine, 1], [rng.choice(np.flatnonzero(graph[i])) for i in fine]]
    labels[2] = np.array(labels[2])
    terms = bgl.forward(scores, labels, graphs)
    loss, probabilities = score_references.bgl(scores, labels, graphs)
    assert terms.loss == pytest.approx(loss) and graph.sum(axis=1).max() > 1
    assert terms.probabilities == pytest.approx(probabilities)
    for level, gradient in enumerate(terms.gradients):

        def of_level(moved, level=level):
            return bgl.forward([*scores[:level], moved, *scores[level + 1 :]], labels, graphs).loss

        numeric = numeric_gradient(of_level, scores[level], 1e-6)
        assert gradient == pytest.approx(numeric, abs=1e-8)
    parameters = {"hierarchy": tree.path, "attributes": [path]}
    net = make_net(tmp_path, "bgl_loss.BGLLossLayer", parameters, scores, 3)
    assert run(net, scores, labels)[0] == pytest.approx(loss, rel=1e-5)


def make_net(folder, layer, parameters, scores, labels, loss_weight=1.0, tops=2, phase=caffe.TRAIN):
    module, name = layer.split(".")
    shapes = {f"scores_{i}": values.shape for i, values in enumerate(scores)}
    shapes |= {f"label_{i}": (len(scores[0]),) for i in range(labels)}
    text = "force_backward: true\n" + "".join(
        f'layer {{ name: "{blob}" type: "Input" top: "{blob}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in shape)} }} }} }}\n"
        for blob, shape in shapes.items()
    )
    bottoms = " ".join(f'bottom: "{blob}"' for blob in shapes)
    top = f'top: "loss" loss_weight: {loss_weight} '
    top += 'top: "p" loss_weight: 0' if tops == 2 else ""
    text += (
        f'layer {{ name: "loss" type: "Python" {bottoms} {top} python_param {{ '
        f'module: "python_layers.{module}" layer: "{name}" '
        f"param_str: {json.dumps(json.dumps(parameters))} }} }}"
    )
    (folder / "net.prototxt").write_text(text)
    return caffe.Net(str(folder / "net.prototxt"), phase)


def run(net, scores, labels):
    """Forward and backward: (loss, probabilities, gradients of the scores)."""
    for i, values in enumerate(scores):
        net.blobs[f"scores_{i}"].data[...] = values
    for i, values in enumerate(labels):
        net.blobs[f"label_{i}"].data[...] = values
        net.blobs[f"label_{i}"].diff[...] = 7
    loss = float(net.forward()["loss"][0])
    net.backward()
    assert not any(net.blobs[f"label_{i}"].diff.any() for i in range(len(labels)))
    gradients = [net.blobs[f"scores_{i}"].diff.copy() for i in range(len(scores))]
    return loss, net.blobs["p"].data.copy(), gradients


def net_of(folder, case, tree, scores, **options):
    parameters = {"hierarchy": tree.path, **case.parameters}
    return make_net(folder, case.layer, parameters, scores, case.labels, **options)


@pytest.mark.parametrize("loss_weight", [0, 1, 2.5])
@each_case
def test_layer(tmp_path, tree, case, loss_weight):
    scores, labels = batch(case, tree, 7)
    net = net_of(tmp_path, case, tree, scores, loss_weight=loss_weight)
    terms = case.forward(scores, labels, tree)
    for _ in range(2):  # the second pass must not add to the first
        loss, probabilities, gradients = run(net, scores, labels)
        assert loss == pytest.approx(terms.loss, rel=1e-6)
        assert probabilities == pytest.approx(terms.probabilities, rel=1e-5, abs=1e-7)
        for actual, expected in zip(gradients, terms.gradients, strict=True):
            assert actual == pytest.approx(loss_weight * expected, abs=1e-6)


@each_case
def test_batches_of_other_sizes_and_without_samples(tmp_path, tree, case):
    scores, labels = batch(case, tree, 8)
    net = net_of(tmp_path, case, tree, scores)
    for samples in (1, 0, 20):
        scores, labels = batch(case, tree, samples, samples)
        for name, blob in net.blobs.items():
            if name.startswith(("scores", "label")):
                blob.reshape(samples, *list(blob.shape)[1:])
        loss = run(net, scores, labels)[0]
        expected = case.forward(scores, labels, tree).loss if samples else 0
        assert loss == pytest.approx(expected, rel=1e-6)


@each_case
def test_caffes_gradient_checker(gradient_check, tmp_path, tree, case):  # noqa: F811
    import subprocess

    scores, labels = batch(case, tree, 9)
    module, name = case.layer.split(".")
    layer = caffe_pb2.LayerParameter(name="loss", type="Python", top=["loss"], loss_weight=[1])
    layer.python_param.module, layer.python_param.layer = f"python_layers.{module}", name
    layer.python_param.param_str = json.dumps({"hierarchy": tree.path, **case.parameters})
    bottoms = caffe_pb2.BlobProtoVector()
    for number, values in enumerate([*scores, *labels]):
        layer.bottom.append(f"bottom_{number}")
        bottoms.blobs.add(data=values.ravel()).shape.dim.extend(values.shape)
    (tmp_path / "bottoms").write_bytes(bottoms.SerializeToString())
    (tmp_path / "layer.prototxt").write_text(text_format.MessageToString(layer))
    files = [tmp_path / "layer.prototxt", tmp_path / "bottoms"]
    command = [gradient_check, *files, str(STEP), str(THRESHOLD), "-", str(case.scores)]
    assert_passed(subprocess.run(command, capture_output=True, text=True))


MARGINALS = {
    "bgl": "bgl_loss.BGLMarginalsLayer",
    "conditional": "conditional_softmax_loss.ConditionalMarginalsLayer",
}


def marginals_net(folder, layer, parameters, scores):
    """A net whose layer writes the logarithms of the probabilities over its scores."""
    text = "".join(
        f'layer {{ name: "scores_{i}" type: "Input" top: "scores_{i}" input_param {{ shape {{ '
        f"dim: {values.shape[0]} dim: {values.shape[1]} }} }} }}\n"
        for i, values in enumerate(scores)
    )
    blobs = " ".join(f'bottom: "scores_{i}" top: "scores_{i}"' for i in range(len(scores)))
    module, name = layer.split(".")
    text += (
        f'layer {{ name: "marginals" type: "Python" {blobs} python_param {{ '
        f'module: "python_layers.{module}" layer: "{name}" '
        f"param_str: {json.dumps(json.dumps(parameters))} }} }}"
    )
    (folder / "net.prototxt").write_text(text)
    return caffe.Net(str(folder / "net.prototxt"), caffe.TEST)


def marginals(net, scores):
    """The probabilities of each level, of the softmax of what the layer writes."""
    for i, values in enumerate(scores):
        net.blobs[f"scores_{i}"].data[...] = values
    net.forward(start="marginals")
    found = [net.blobs[f"scores_{i}"].data.astype(np.float64) for i in range(len(scores))]
    assert all(np.isfinite(rows).all() for rows in found)
    return [np.array([score_references.softmax(row) for row in rows]) for rows in found]


@pytest.mark.parametrize("case", MARGINALS)
def test_marginals_in_place(tmp_path, tree, case, monkeypatch):
    """p of the reference implementation at every level, also of scores far apart, in parts."""
    scores, labels = batch(CASES[case], tree, 10)
    net = marginals_net(tmp_path, MARGINALS[case], {"hierarchy": tree.path}, scores)
    fine = CASES[case].reference(scores, labels, tree)[1]  # n x C
    for chunk in (bgl.CHUNK, 3 * CLASSES**2):
        monkeypatch.setattr(bgl, "CHUNK", chunk)
        for level, found in enumerate(marginals(net, scores)):
            expected = fine @ tree.graph(level)  # in a tree: the sum over the fine classes below
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
    far = [values * np.float32(300) for values in scores]
    for level, found in enumerate(marginals(net, far)):
        assert found.sum(axis=1) == pytest.approx(1)
        wide = [values.astype(np.float64) for values in far]
        forward = CASES[case].forward(wide, labels, tree).probabilities
        assert found == pytest.approx(forward @ tree.graph(level), rel=1e-3, abs=1e-6)


def test_marginals_of_a_graph_are_those_of_all_combinations(tmp_path, tree):
    path, graph = attribute_table(tmp_path)
    rng = np.random.default_rng(3)
    scores = [rng.normal(size=(4, n)) for n in (CLASSES, tree.sizes[1], ATTRIBUTES)]
    graphs = [tree.graph(1), graph]
    fine, *others = (np.exp(found) for found in bgl.log_marginals(scores, graphs))
    weights = np.exp(scores[0][:, :, None, None] + scores[1][:, None, :, None])
    weights = weights * np.exp(scores[2])[:, None, None] * graphs[0][:, :, None] * graph[:, None]
    weights /= weights.sum(axis=(1, 2, 3), keepdims=True)  # n x C x C_1 x A, of all combinations
    for found, axes in ((fine, (2, 3)), (others[0], (1, 3)), (others[1], (1, 2))):
        assert found == pytest.approx(weights.sum(axis=axes))
    parameters = {"hierarchy": tree.path, "attributes": [path]}
    net = marginals_net(tmp_path, MARGINALS["bgl"], parameters, scores)
    for found, expected in zip(marginals(net, scores), [fine, *others], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_attributes_without_labels(tmp_path, tree):
    """Their label is summed over: the loss of all combinations, and its gradient."""
    path, graph = attribute_table(tmp_path)
    rng = np.random.default_rng(9)
    scores = [rng.normal(size=(5, n)) for n in (CLASSES, tree.sizes[1], ATTRIBUTES)]
    fine = rng.integers(CLASSES, size=5)
    labels, graphs = [fine, tree.ancestors[fine, 1]], [tree.graph(1), graph]
    terms = bgl.forward(scores, labels, graphs)
    loss, probabilities = score_references.bgl(scores, labels, graphs)
    assert terms.loss == pytest.approx(loss)
    assert terms.probabilities == pytest.approx(probabilities)
    for level, gradient in enumerate(terms.gradients):

        def of_level(moved, level=level):
            return bgl.forward([*scores[:level], moved, *scores[level + 1 :]], labels, graphs).loss

        assert gradient == pytest.approx(numeric_gradient(of_level, scores[level], 1e-6), abs=1e-8)
        assert np.abs(gradient).max() > 1e-3
    parameters = {"hierarchy": tree.path, "attributes": [path], "attribute_labels": False}
    net = make_net(tmp_path, "bgl_loss.BGLLossLayer", parameters, scores, 2)
    assert run(net, scores, labels)[0] == pytest.approx(loss, rel=1e-5)
    with pytest.raises(ValueError, match="needs scores of m . 1 label sets .* not 4 bottoms"):
        make_net(tmp_path, "bgl_loss.BGLLossLayer", parameters, scores, 1)


@pytest.mark.parametrize("case", ["bgl", "conditional"])
def test_some_levels(tmp_path, tree, case):
    """As of a tree that has only these."""
    chosen = CASES[case]
    few = tree.only(("level0", "level2"))
    assert few.sizes == (tree.sizes[0], tree.sizes[2])
    scores, labels = batch(CASES["bgl"], tree, 15)
    scores = [scores[0], scores[2]]
    labels = [labels[0], labels[2]][: 2 if case == "bgl" else 1]
    if case == "bgl":
        expected = bgl.forward(scores, labels, [tree.graph(2)]).loss
    else:
        expected = score_references.conditional(scores, labels, few.ancestors)[0]
    parameters = {"hierarchy": tree.path, "levels": ["level0", "level2"]}
    net = make_net(tmp_path, chosen.layer, parameters, scores, len(labels))
    assert run(net, scores, labels)[0] == pytest.approx(expected, rel=1e-5)
    for wrong in (["level2", "level0"], ["level1"], ["level0", "level0"], ["level0", "no"]):
        parameters["levels"] = wrong
        with pytest.raises(ValueError, match=f"{', '.join(wrong)} are not levels of .* level0, l"):
            make_net(tmp_path, chosen.layer, parameters, scores, len(labels))


@each_case
def test_same_on_a_device_without_waiting(tree, case, monkeypatch):
    scores, labels = batch(case, tree, 11)
    expected = case.forward(scores, labels, tree)
    cupy, device = make_cupy(monkeypatch)

    class OnDevice:
        """The tree's arrays there."""

        ancestors = cupy.asarray(tree.ancestors)
        graph = staticmethod(lambda level: cupy.asarray(tree.graph(level)))
        distances = staticmethod(tree.distances)
        parents = staticmethod(lambda: [cupy.asarray(values) for values in tree.parents()])
        children = staticmethod(lambda: [cupy.asarray(values) for values in tree.children()])

    soft = hierarchical.soft_targets
    monkeypatch.setattr(hierarchical, "soft_targets", lambda *a: cupy.asarray(soft(*a)))
    there = [cupy.asarray(values) for values in scores]
    labels_there = [cupy.asarray(values.astype(np.float32)) for values in labels]
    terms = case.forward(there, labels_there, OnDevice)
    assert cupy.asnumpy(terms.loss) == pytest.approx(expected.loss, rel=1e-12)
    for ours, wanted in zip(terms.gradients, expected.gradients, strict=True):
        assert cupy.asnumpy(ours) == pytest.approx(wanted, abs=1e-12)


@each_case
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s, y: s[0].__setitem__((2, 1), np.nan), "scores of level 1 of sample 2 hold nan"),
        (lambda s, y: s[-1].__setitem__((2, 1), np.inf), r"scores of level \d of sample 2 hold"),
        (lambda s, y: s[0].__setitem__((2, 1), -1e30), "scores of level 1 of sample 2 hold"),
        (
            lambda s, y: y[0].__setitem__(3, -1),
            "label_1 must hold whole numbers .* sample 3 has -1",
        ),
        (lambda s, y: y[0].__setitem__(3, CLASSES), "label_1 holds class 7, but there are only 7"),
    ],
)
def test_wrong_values_are_refused(tmp_path, tree, case, change, message):
    scores, labels = batch(case, tree, 12)
    net = net_of(tmp_path, case, tree, scores)
    expected = run(net, scores, labels)
    wrong = [values.copy() for values in scores], [values.copy() for values in labels]
    change(*wrong)
    with pytest.raises(ValueError, match=f"^{case.layer.split('.')[1]}: .*{message}"):
        run(net, *wrong)
    again = run(net, scores, labels)
    assert again[0] == expected[0]


def test_labels_that_the_graph_does_not_join(tmp_path, tree):
    case = CASES["bgl"]
    scores, labels = batch(case, tree, 13)
    labels[1] = (labels[1] + 1) % tree.sizes[1]
    with pytest.raises(
        ValueError, match="label_1 of sample 0 is class .*, which the graph does not"
    ):
        run(net_of(tmp_path, case, tree, scores), scores, labels)


@each_case
def test_a_tree_of_another_data_set(tmp_path, tree, case):
    scores, _ = batch(case, tree, 14)
    scores[0] = scores[0][:, 1:]
    with pytest.raises(
        ValueError, match="the net has 6 scores for the level level0, and .* has 7 classes"
    ):
        net_of(tmp_path, case, tree, scores)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "can't be read .No such file or directory; current folder: "),
        (b"", "is not a hierarchy.tsv"),
        (b"species,family\na,b\n", "is not a hierarchy.tsv"),
        (b"a_id\ta\n\xff\t1\n", "is not UTF-8 text"),
        (b"a_id\ta\n0\tx\n0\ty\n", "line 3: class 0 occurs twice"),
        (b"a_id\ta\n0\tx\n2\ty\n", "the ids of the level a are not 0, 1, 2"),
        (b"a_id\ta\n", "the ids of the level a are not 0, 1, 2"),
        (b"a_id\ta\n-1\tx\n", "line 2: 1 numbers and names expected"),
        (b"a_id\ta\n" + b"9" * 5000 + b"\tx\n", "line 2: 1 numbers"),
        (b"a_id\ta\tb_id\tb\n0\tx\n", "line 2: 2 numbers and names"),
        (
            b"a_id\ta\tb_id\tb\tc_id\tc\n0\tx\t0\tu\t0\tr\n1\ty\t0\tu\t1\ts\n",
            "a class of the level b has two parents",
        ),
    ],
)
def test_files_that_are_not_a_tree(tmp_path, content, message):
    path = tmp_path / "tree.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        label_tree.read(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: lines[:-1], "has 6 classes, and the tree has 7"),
        (lambda lines: [*lines[:-1], lines[-1].replace("1", "2")], "line 8: a name and 4 values"),
        (lambda lines: [*lines[:-1], "class\t0\t0\t0\t0"], "class 6 .* has no 1"),
        (lambda lines: lines[:1] + 7 * ["class\t0\t1\t1\t1"], "attribute 0 .* has no 1"),
        (lambda lines: [], "has 0 classes"),
    ],
)
def test_files_that_are_not_a_table_of_attributes(tmp_path, change, message):
    path, _ = attribute_table(tmp_path)
    lines = (tmp_path / "attributes.tsv").read_text().splitlines()
    (tmp_path / "attributes.tsv").write_text("\n".join(change(lines)))
    with pytest.raises(ValueError, match=message):
        label_tree.read_graph(path, CLASSES)


@pytest.mark.parametrize(
    "name, parameters, message",
    [
        ("hxe-0", {}, 'param_str needs "hierarchy"'),
        ("hxe-0", {"hierarchy": 3}, '"hierarchy" must be the path of a file, a string, not 3'),
        ("hxe-0", {"hierarchy": "tree.tsv", "alpha": -1}, '"alpha" must be a number from 0 to 100'),
        ("soft-0", {"hierarchy": "tree.tsv", "beta": "x"}, '"beta" must be a number from 0 to 700'),
        ("bgl", {"hierarchy": "nowhere.tsv"}, "nowhere.tsv can't be read"),
        ("bgl", {"attributes": "a.tsv"}, '"attributes" must be a list of paths of files'),
    ],
)
def test_wrong_parameters(tmp_path, tree, name, parameters, message):
    case = CASES[name]
    scores, _ = batch(case, tree, 15)
    with pytest.raises(ValueError, match=f"^{case.layer.split('.')[1]}: .*{message}"):
        make_net(tmp_path, case.layer, parameters, scores, case.labels)


def test_wrong_numbers_of_bottoms(tmp_path, tree):
    scores, _ = batch(CASES["bgl"], tree, 16)
    parameters = {"hierarchy": tree.path}
    with pytest.raises(ValueError, match="BGLLossLayer needs scores .* not 5 bottoms and 2 tops"):
        make_net(tmp_path, "bgl_loss.BGLLossLayer", parameters, scores, 2)
    with pytest.raises(ValueError, match="HXELossLayer needs the fine scores and their labels"):
        make_net(tmp_path, "hxe_loss.HXELossLayer", parameters, scores, 1)
    with pytest.raises(ValueError, match="2 score bottoms for the 3 levels of"):
        make_net(
            tmp_path,
            "conditional_softmax_loss.ConditionalSoftmaxLossLayer",
            parameters,
            scores[:2],
            1,
        )
