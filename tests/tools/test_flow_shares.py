"""Each metric loss acts: at the start it sends 0.3 to 1 of the fine classifier's gradient.

The nets are those of tools/make_prototxt.py from the feature on, with new classifiers as they
start. The features are real ones of photographs, or synthetic ones that agree with them in length,
sparsity and mean cosine within and between classes.
"""

from dataclasses import dataclass

import caffe
import numpy as np
import pytest
import real_data
from caffe.proto import caffe_pb2
from commands import ROOT

from data_prep import images
from data_prep.label_tree import TABLES, Hierarchy
from tools.flow_meter import FlowMeter
from tools.nets import losses, rules, solver, tables, train_val

LEAST, MOST = 0.3, 1.0
BATCHES = 4


@dataclass(frozen=True)
class Case:
    """A net on a data set, and what its features are like.

    shape       of a feature
    batch       images per iteration
    classes     fine classes that the features are drawn from
    length      mean length of a feature
    positive    share of its values above 0
    within, between  mean cosine of two features of one class, and of two classes
    of_class, offset of the synthetic features: max(0, offset + of_class * class + noise)
    """

    dataset: str
    net: str
    shape: tuple
    batch: int
    classes: int
    length: float
    positive: float
    within: float
    between: float
    of_class: float
    offset: float


# Measured on 1200 training photographs of CUB's first 50 species and 640 of the Cars' crops.
CASES = {
    "cub": Case("cub", "googlenet", (1024, 1, 1), 32, 50, 47, 0.64, 0.63, 0.43, 0.8, 0.5),
    "cars": Case("cars", "squeezenet", (512, 1, 1), 64, 196, 105, 0.92, 0.74, 0.68, 0.5, 1.5),
}
VARIANTS = [
    "sm_glm",
    "ours",
    *(f"sm_{n}" for n in ("contrastive", "triplet", "center", "minmax", "gtl")),
]


def net_from_feature(case, variant, folder):
    """caffe.Net of a variant in training, from the feature on. Inputs: `x` and `label`."""
    dataset, net = tables.DATASETS[case.dataset], tables.NETS[case.net]
    labels = tables.Labels(dataset.sizes, "hierarchy.tsv")
    found = losses.net_losses(labels, strengths=net.strengths)
    run = solver.run_of(dataset, net, batch=case.batch)
    whole = train_val.train_val("shares", dataset, net, run, found)
    chosen = rules.select(whole, caffe.TRAIN, tables.STAGES[variant])
    made = next(i for i, layer in enumerate(chosen.layer) if net.feature in layer.top)
    proto = caffe_pb2.NetParameter(name="shares", force_backward=True)
    for name, shape in (("x", case.shape), ("label", (len(dataset.sizes), 1, 1))):
        layer = proto.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add().dim.extend((case.batch, *shape))
    proto.layer.add(name="copy", type="Power", bottom=["x"], top=[net.feature])
    proto.layer.extend(layer for layer in chosen.layer if layer.type == "Slice")
    proto.layer.extend(chosen.layer[made + 1 :])
    for layer in proto.layer:
        del layer.include[:]
    path = folder / f"{variant}.prototxt"
    path.write_text(str(proto))
    caffe.set_random_seed(1)
    return caffe.Net(str(path), caffe.TRAIN)


def shares(case, variant, features, fine, folder):
    """Norm of the metric loss's flow, divided by that of loss_fine, of each of BATCHES batches."""
    net = net_from_feature(case, variant, folder)
    levels = Hierarchy.read(TABLES / f"{case.dataset}.tsv").labels
    meter, found = FlowMeter(net, tables.NETS[case.net].feature), []
    for start in range(0, BATCHES * case.batch, case.batch):
        chosen = np.arange(start, start + case.batch) % len(features)
        net.blobs["x"].data[...] = features[chosen].reshape(-1, *case.shape)
        net.blobs["label"].data[...] = levels[fine[chosen]][:, :, None, None]
        net.forward()
        net.backward()
        measured = meter.measure(0)
        flows = {flow.loss: flow.norm for flow in measured.flows}
        (metric,) = (name for name in flows if name.removesuffix("_loss") in tables.LOSSES)
        assert measured.deviation < 1e-5
        found.append(flows[metric] / flows["loss_fine"])
    return found


def synthetic(case, seed=0):
    """(features, n x C; fine classes, n): as the Case states them."""
    rng = np.random.default_rng(seed)
    count, channels = BATCHES * case.batch * 2, case.shape[0]
    fine = rng.integers(0, case.classes, count)
    of_class = case.of_class * rng.normal(size=(case.classes, channels))[fine]
    features = np.maximum(case.offset + of_class + rng.normal(size=(count, channels)), 0)
    return features * case.length / np.linalg.norm(features, axis=1).mean(), fine


@pytest.mark.parametrize("name", CASES)
def test_synthetic_features_are_like_the_real_ones(name):
    case = CASES[name]
    features, fine = synthetic(case)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, fine[:, None] == fine
    others = ~np.eye(len(fine), dtype=bool)
    assert (features > 0).mean() == pytest.approx(case.positive, abs=0.03)
    assert cosines[same & others].mean() == pytest.approx(case.within, abs=0.03)
    assert cosines[~same].mean() == pytest.approx(case.between, abs=0.03)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_flows_of_synthetic_features(name, variant, tmp_path):
    case = CASES[name]
    if (name, variant) == ("cub", "sm_triplet"):
        pytest.skip("noise of one width separates the classes: no triplet violates the margin")
    found = shares(case, variant, *synthetic(case), tmp_path)
    assert LEAST <= np.mean(found) <= MOST, found


def photographs(name, count):
    """(path, fine class) of `count` random photographs of a data set."""
    folder = real_data.FOLDER
    if name == "cub":
        rows = (folder / "CUB_200_2011/images.txt").read_text().split("\n")
        paths = [line.split()[1] for line in rows if line]
        found = [(folder / "CUB_200_2011/images" / p, int(p[:3]) - 1) for p in paths]
    else:
        rows = (folder / "stanford_cars/crops.tsv").read_text().splitlines()[1:]
        cells = [line.split("\t") for line in rows]
        found = [(folder / "stanford_cars/crops" / p, int(c) - 1) for p, c, _ in cells]
    order = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[i] for i in order]


@pytest.fixture(scope="module")
def features():
    """{data set: (features, fine classes)} of a batch of photographs; only those at hand."""
    weights = {
        "cub": real_data.FOLDER / "weights/bvlc_googlenet.caffemodel",
        "cars": ROOT / "weights/squeezenet_v1.1.caffemodel",
    }
    folders = {"cub": "CUB_200_2011/images.txt", "cars": "stanford_cars/crops.tsv"}
    found = {}
    for name, case in CASES.items():
        if not (weights[name].exists() and (real_data.FOLDER / folders[name]).exists()):
            continue
        net = caffe.Net(str(ROOT / f"prototxt/cub_{case.net}_deploy.prototxt"), caffe.TEST)
        net.copy_from(str(weights[name]))
        chosen = photographs(name, case.batch)
        side = net.blobs["data"].shape[2]
        pixels = []
        for path, _ in chosen:
            image = images.resize(images.decode(path.read_bytes()), 256, "squeeze")
            start = (256 - side) // 2
            pixels.append(image[start : start + side, start : start + side] - [104.0, 117, 123])
        rows = []
        for image in pixels:
            net.blobs["data"].data[...] = image.transpose(2, 0, 1)
            net.forward()
            rows.append(net.blobs[tables.NETS[case.net].feature].data.ravel().copy())
        found[name] = np.array(rows), np.array([fine for _, fine in chosen])
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_flows_of_real_features(features, name, variant, tmp_path):
    if name not in features:
        pytest.skip(real_data.missing("its photographs, or weights/ is without SqueezeNet's"))
    case = CASES[name]
    found = shares(case, variant, *features[name], tmp_path)
    assert LEAST <= np.mean(found) <= MOST, found
