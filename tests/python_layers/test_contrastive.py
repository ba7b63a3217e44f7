"""The maths of the contrastive loss: reference, finite differences, other implementations."""

import caffe
import numpy as np
import pytest
from batches import contrastive_choice, numeric_gradient, random_batch, steady_batch
from metric_references import contrastive as reference
from scipy.spatial.distance import pdist

from python_layers import contrastive

pytestmark = pytest.mark.filterwarnings("error")

MARGIN = 4.0  # of the size of the distances of random_batch, about 4.5


def batch(seed, samples=24, classes=8, scale=1.0):
    features, labels, _ = random_batch(seed, 1, samples, classes, scale=scale)
    return features, labels[0]


def assert_same(features, labels, tolerance=1e-4, **options):
    terms = contrastive.forward(features, [labels], **options)
    loss, expected = reference(features, labels, **options)
    assert terms.loss == pytest.approx(loss, rel=tolerance)
    assert np.abs(terms.gradient(features) - expected).max() <= tolerance * np.abs(expected).max()
    return terms.loss


@pytest.mark.parametrize("average", ["pairs", "kinds"])
@pytest.mark.parametrize("normalize, margin", [(False, MARGIN), (True, 1.3), (False, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_reference(seed, normalize, margin, average):
    assert assert_same(*batch(seed), margin=margin, normalize=normalize, average=average) > 0


@pytest.mark.parametrize("average", ["pairs", "kinds"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("samples, classes", [(1, 1), (2, 1), (6, 1), (6, 600), (40, 5)])
def test_batches_of_any_make_up_and_scale(samples, classes, scale, average):
    """One sample, one pair, one class, all classes distinct, many per class."""
    assert_same(*batch(5, samples, classes, scale), margin=MARGIN * scale, average=average)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("average", ["pairs", "kinds"])
def test_gradient_is_the_derivative(average, normalize):
    options = {"margin": 1.2 if normalize else 3.0, "normalize": normalize, "average": average}
    features, labels = steady_batch(1e-6, 1, contrastive_choice(**options))
    features = features.astype(np.float64)
    gradient = contrastive.forward(features, labels, **options).gradient(features)
    numeric = numeric_gradient(
        lambda x: contrastive.forward(x, labels, **options).loss, features, 1e-6
    )
    assert gradient == pytest.approx(numeric, abs=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("normalize", [False, True])
def test_coinciding_samples_of_different_classes_are_not_moved_by_each_other(normalize, scale):
    """Their hinge has a cusp: its value counts, and its gradient is none."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(scale=scale, size=(2, 50)), 4, axis=0).astype(np.float32)
    features[4:] += np.float32(100 * scale)  # out of the reach of the margin, unless normalized
    labels = np.arange(8) % 4
    margin = 0.1 if normalize else scale
    terms = contrastive.forward(features, [labels], margin, normalize)
    assert terms.loss == pytest.approx(
        12 * margin**2 / (2 * 28) + terms.diagnostics()[2] ** 2 * 4 / 56, rel=1e-5
    )
    pulls = reference(features, labels, margin=0.0, normalize=normalize)[1]
    assert terms.gradient(features) == pytest.approx(pulls, abs=1e-5 * np.abs(pulls).max())


@pytest.mark.parametrize("normalize", [False, True])
def test_rounding_is_not_magnified_into_a_direction(normalize):
    """Pairs that differ in the last bit of a component: no force may exceed the margin's m / P."""
    rng = np.random.default_rng(0)
    once = rng.normal(scale=1000, size=(40, 8)).astype(np.float32)
    twice = once.copy()
    twice[:, 0] = np.nextafter(twice[:, 0], np.float32(np.inf))
    for pair in zip(once, twice):
        features = np.array(pair)
        terms = contrastive.forward(features, [[0, 1]], normalize=normalize)
        lever = np.linalg.norm(features, axis=1).min() if normalize else 1
        assert terms.loss == pytest.approx(0.5, rel=1e-2)
        assert np.linalg.norm(terms.gradient(features)[0]) <= 1.01 / lever


def test_zero_features():
    features = np.zeros((4, 3), np.float32)
    for normalize in (False, True):
        terms = contrastive.forward(features, [[0, 0, 1, 1]], normalize=normalize)
        assert terms.loss == pytest.approx(4 / 12) and not terms.gradient(features).any()


def test_diagnostics():
    features, labels = batch(1)
    terms = contrastive.forward(features, [labels], MARGIN)
    distances = pdist(features.astype(np.float64))
    i, j = np.triu_indices(len(labels), 1)
    same = labels[i] == labels[j]
    named = dict(zip(contrastive.diagnostic_names(1), terms.diagnostics(), strict=True))
    assert named == pytest.approx(
        {
            "loss": terms.loss,
            "active": (distances[~same] < MARGIN).mean(),
            "same": distances[same].mean(),
            "different": distances[~same].mean(),
            "gradient_norm": np.linalg.norm(terms.gradient(features)),
        }
    )


def test_scipys_distances_give_the_same_loss():
    features, labels = batch(2)
    distances = pdist(features.astype(np.float64))
    i, j = np.triu_indices(len(labels), 1)
    each = np.where(labels[i] == labels[j], distances**2, np.maximum(MARGIN - distances, 0) ** 2)
    assert contrastive.forward(features, [labels], MARGIN).loss == pytest.approx(each.mean() / 2)


def test_caffes_own_layer_on_all_pairs_gives_the_same_loss_and_gradient(tmp_path):
    """ContrastiveLoss with the pairs as its two branches; each sample's gradients are summed."""
    features, labels = batch(3, samples=10, classes=4)
    i, j = np.triu_indices(len(features), 1)
    shapes = {"a": f"dim: {len(i)} dim: 10", "b": f"dim: {len(i)} dim: 10", "y": f"dim: {len(i)}"}
    path = tmp_path / "net.prototxt"
    path.write_text(
        "force_backward: true\n"
        + "\n".join(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {shape} }} }} }}"
            for name, shape in shapes.items()
        )
        + f"""
        layer {{ name: "reshape" type: "Reshape" bottom: "y" top: "similar"
                 reshape_param {{ shape {{ dim: 0 dim: 1 dim: 1 dim: 1 }} }} }}
        layer {{ name: "a4" type: "Reshape" bottom: "a" top: "a4"
                 reshape_param {{ shape {{ dim: 0 dim: 0 dim: 1 dim: 1 }} }} }}
        layer {{ name: "b4" type: "Reshape" bottom: "b" top: "b4"
                 reshape_param {{ shape {{ dim: 0 dim: 0 dim: 1 dim: 1 }} }} }}
        layer {{ name: "loss" type: "ContrastiveLoss" bottom: "a4" bottom: "b4" bottom: "similar"
                 top: "loss" contrastive_loss_param {{ margin: {MARGIN} }} }}"""
    )
    net = caffe.Net(str(path), caffe.TEST)
    for name, values in {"a": features[i], "b": features[j], "y": labels[i] == labels[j]}.items():
        net.blobs[name].data[...] = values
    theirs = net.forward()["loss"]
    net.backward()
    gradient = np.zeros(features.shape)
    np.add.at(gradient, i, net.blobs["a"].diff)
    np.add.at(gradient, j, net.blobs["b"].diff)
    ours = contrastive.forward(features, [labels], MARGIN)
    assert ours.loss == pytest.approx(float(theirs), rel=1e-5)
    # Caffe divides by d + 1e-4 where we divide by d.
    assert ours.gradient(features) == pytest.approx(gradient, abs=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("normalize, margin", [(False, MARGIN), (True, 1.3)])
def test_torchs_autograd_gives_the_same_gradient(normalize, margin):
    torch = pytest.importorskip("torch", reason="torch, which this compares with, is not installed")
    features, labels = batch(4)
    x = torch.tensor(features, dtype=torch.float64, requires_grad=True)
    distance = torch.pdist(torch.nn.functional.normalize(x) if normalize else x)
    i, j = np.triu_indices(len(labels), 1)
    each = torch.where(
        torch.tensor(labels[i] == labels[j]),
        distance**2,
        torch.clamp(margin - distance, min=0) ** 2,
    )
    loss = each.mean() / 2
    loss.backward()
    terms = contrastive.forward(features, [labels], margin, normalize)
    assert terms.loss == pytest.approx(loss.item())
    assert terms.gradient(features) == pytest.approx(
        x.grad.numpy(), abs=1e-5 * float(x.grad.abs().max())
    )
