"""tools/predict.py on the files of an exported model, which these tests write themselves."""

import json

import numpy as np
import photo_set
import pytest
from commands import assert_error, run

from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from tools.recognition import labels, model as models, preprocessing, trained


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_set.make(tmp_path_factory.mktemp("photos"), "--encoded", "png")


def export(photos, folder):
    """The Caffe part of an exported folder."""
    net = trained.read(photos.solver)
    folder.mkdir()
    preprocessing.write(folder, net.preprocessing)
    labels.write(folder, labels.Labels.of(net.hierarchy, net.outputs, net.feature))
    (folder / models.NET).write_text(str(net.net))
    (folder / models.WEIGHTS).write_bytes(net.weights.read_bytes())
    return folder


def test_caffe(photos, tmp_path):
    folder = export(photos, tmp_path / "model")
    args = ("--json", "--crops", 10, photos.photographs)
    one = run("predict", "--solver", photos.solver, *args)
    other = run("predict", "--model", folder, "--engine", "caffe", *args)
    assert other.returncode == 0, other.stderr
    assert one.stdout == other.stdout and one.stdout.count("\n") == 16
    found = json.loads((folder / "labels.json").read_text())
    assert found["version"] == 1 and found["levels"][0]["parents"] == [0, 0, 1, 1]
    assert [level["output"] for level in found["levels"]] == ["prob_fine", "prob_fc9_coarse"]
    found = json.loads((folder / "preprocessing.json").read_text())
    assert found["squeeze"] == [32, 32] and found["crop"] == [24, 24] and found["color"] == "BGR"
    assert found["mean"] == [104, 117, 123] and "middle 24 x 24" in found["words"]


def test_onnx(photos, tmp_path):
    """A linear net in ONNX Runtime, with its probabilities in NumPy beside it."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    folder = export(photos, tmp_path / "model")
    rng, width = np.random.default_rng(0), 3 * 24 * 24
    weights = {
        name: rng.normal(0, 0.01, (width, classes)).astype(np.float32)
        for name, classes in (("prob_fine", 4), ("prob_fc9_coarse", 2))
    }
    nodes = [onnx.helper.make_node("Flatten", ["data"], ["flat"])]
    for name in weights:
        nodes.append(onnx.helper.make_node("MatMul", ["flat", f"w_{name}"], [f"s_{name}"]))
        nodes.append(onnx.helper.make_node("Softmax", [f"s_{name}"], [name], axis=1))
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [onnx.helper.make_tensor_value_info("data", kind, ["N", 3, 24, 24])],
        [
            onnx.helper.make_tensor_value_info(name, kind, ["N", one.shape[1]])
            for name, one in weights.items()
        ],
        [onnx.numpy_helper.from_array(one, f"w_{name}") for name, one in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / models.ONNX
    )
    model = models.from_folder(folder)
    assert model.source.endswith("model.onnx")
    batch = rng.normal(0, 50, (3, 3, 24, 24)).astype(np.float32)
    found = model.probabilities(batch)
    for level, one in enumerate(weights.values()):
        scores = batch.reshape(3, -1).astype(np.float64) @ one
        wanted = np.exp(scores - scores.max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[level], wanted, atol=1e-5)
    done = run("predict", "--model", folder, photos.photographs, "--json")
    assert done.returncode == 0 and done.stdout.count("\n") == 16, done.stderr
    (folder / models.ONNX).write_bytes(b"not a net")
    assert_error(run("predict", "--model", folder, photos.photographs), "model.onnx")


def test_features_of_an_exported_model(photos, tmp_path):
    folder, path = export(photos, tmp_path / "model"), photos.listed()[0][1]
    done = run("extract_features", "--model", folder, "--out", tmp_path / "f.npz", path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (1, 16) and str(found["blob"]) == "feature"
    done = run("extract_features", "--model", folder, "--out", tmp_path / "f.npz")
    assert done.returncode == 2 and "--model needs photographs" in done.stderr


@pytest.mark.parametrize(
    "file, change, says",
    [
        ("labels.json", lambda c: c["levels"][0].pop("output"), "levels[0] has no output"),
        ("labels.json", lambda c: c["levels"][0]["parents"].pop(), "levels[0].parents"),
        ("labels.json", lambda c: c["levels"][0]["parents"].insert(0, 7), "levels[0].parents"),
        ("labels.json", lambda c: c["levels"][1].update(parents=[0, 0]), "needs parents"),
        ("labels.json", lambda c: c.update(version=2), "version is 2"),
        ("labels.json", lambda c: c["levels"][0]["classes"].__setitem__(1, "kind 0"), "kind 0"),
        ("labels.json", lambda c: c["levels"][0].update(output="gone"), "no blob 'gone'"),
        ("preprocessing.json", lambda c: c.update(color="RGB"), "color is not BGR"),
        ("preprocessing.json", lambda c: c.pop("squeeze"), "squeeze and shorter"),
        ("preprocessing.json", lambda c: c.update(crop=[64, 64]), "crop is not between"),
        ("preprocessing.json", lambda c: c.update(mean="x"), "mean is not a list"),
        ("preprocessing.json", lambda c: c.update(input="image"), "not image"),
        ("preprocessing.json", lambda c: c.update(crop=[20, 20]), "Caffe can't compute"),
    ],
)
def test_damaged(photos, tmp_path, file, change, says):
    folder = export(photos, tmp_path / "model")
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        model = models.from_folder(folder, "caffe")
        blob = model.preprocessing.blob(np.zeros((32, 32, 3), np.uint8))
        model.probabilities(blob)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["labels.json", "preprocessing.json", models.NET, models.WEIGHTS])
def test_missing(photos, tmp_path, file):
    folder = export(photos, tmp_path / "model")
    (folder / file).unlink()
    args = ("--model", folder, "--engine", "caffe", photos.photographs)
    assert_error(run("predict", *args), file)


def test_mean_image_is_not_exported(photos, tmp_path):
    mean = dict(mean_value=[], mean_file=str(photos.data / "mean.binaryproto"))
    path, _ = photo_set.solver(tmp_path / "net", photos.data, **mean)
    with pytest.raises(UserError, match="mean_value"):
        preprocessing.write(tmp_path, trained.read(path).preprocessing)
    assert not (tmp_path / preprocessing.FILE).exists()


def test_labels_of_a_tree_that_is_partly_classified():
    tree = Hierarchy(
        ("a", "b", "c"),
        [[0, 1, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]],
        [list("pqrs"), ["x", "ÿ", "z"], ["left", "right"]],
    )
    found = labels.Labels.of(tree, {0: "prob_fine", 2: "prob_fc9_coarse"})
    assert found.levels[1].output is None and found.levels[1].parents == (0, 0, 1)
    assert found.outputs == {0: "prob_fine", 2: "prob_fc9_coarse"}
    assert found.hierarchy.text() == tree.text()
