"""tools/export.py: folders that agree with Caffe, work alone, and replace nothing but exports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import export_nets
import field_nets
import graft_nets
import made_results
import numpy as np
import onnx
import programs
import pytest
from commands import assert_error, run
from google.protobuf import text_format

from data_prep.common import files
from data_prep.common.errors import UserError
from tools.model_folder import agreement, export, place, readers
from tools.nets import tables
from tools.onnx_export import table
from tools.pycaffe import caffe, caffe_pb2
from tools.recognition import labels, model, photographs


def resnet50():
    """ResNet-50 for images of 128 x 128, whose last maps are 4 x 4 instead of 7 x 7."""
    last = "pool: AVE\n    kernel_size: "
    text = graft_nets.replaced(field_nets.resnet50(), f"{last}7", f"{last}4")
    return text.replace("input_dim: 224", "input_dim: 128")


GRAFTS = {
    "resnet50": (resnet50, ()),
    "mobilenet": (
        field_nets.mobilenet,
        ("--crop", 128, "--mean", "103.94,116.78,123.68", "--scale", 0.017),
    ),
}
BACKBONES = [name for name, net in tables.NETS.items() if name != "embedding"]  # it has no images
BILINEAR = ("bcnn", "bcnn2")  # OpenCV can't read their Python layer
POOLED = """
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
"""
SMALL = graft_nets.INPUT + graft_nets.CONV + POOLED
SMALL += graft_nets.replaced(graft_nets.FC, 'bottom: "conv"', 'bottom: "pool"')
SMALL += graft_nets.CLASSIFIER + graft_nets.PROB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(solver, weights) of a net of a convolution, a mean over windows, and two classifiers."""
    return export_nets.grafted(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture
def here(small, tmp_path, monkeypatch):
    """The small net's solver and weights, in a folder that holds its data set and nothing else."""
    for name in ("data", "nets"):
        (tmp_path / name).symlink_to(small[0].parents[1] / name)
    monkeypatch.chdir(tmp_path)
    return Path("nets", small[0].name), small[1]


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("name", [*BACKBONES, *GRAFTS])
def test_every_network_agrees(name, tmp_path, monkeypatch):
    """Every backbone of the tables and two grafted nets, on real photographs where at hand."""
    if name in GRAFTS:
        text, options = GRAFTS[name]
        solver, weights = export_nets.grafted(tmp_path, text(), "ours", *options)
    else:
        solver, weights = export_nets.backbone(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    done = export.export(solver, "models/it", weights, photos=export_nets.photographs())
    names = [one.name.split()[0] for one in done.agreed]
    assert names == ["ONNX", "OpenCV"] + ["OpenCV"] * (name not in BILINEAR)
    assert all("Python" in why for why in done.unread.values())
    assert len(done.unread) == (name in BILINEAR)
    assert all(0 < one.largest <= agreement.TOLERANCE for one in done.agreed)
    loaded = model.from_folder("models/it", "onnx")
    rng = np.random.default_rng(0)
    side = loaded.preprocessing.crop[0]
    images = rng.normal(0, 50 * loaded.preprocessing.scale, (2, 3, side, side))
    for rows in loaded.probabilities(images.astype(np.float32)).values():
        assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
        assert (rows.max(axis=1) < 0.999).all() and (np.ptp(rows, axis=1) > 0.01).all()


@pytest.mark.parametrize("variant", ["bgl", "conditional_softmax", "fgon"])
def test_variants_that_answer_with_all_levels(variant, tmp_path, monkeypatch):
    """Every reader agrees on the model's probabilities, and no layer needs the label tree; they are
    those that predict.py computes with the Python layer."""
    solver, weights = export_nets.grafted(tmp_path, SMALL, variant)
    monkeypatch.chdir(tmp_path)
    done = export.export(solver, "out", weights, photos=export_nets.photographs())
    assert len(done.agreed) == 3 and not done.unread
    assert all(0 < one.largest <= agreement.TOLERANCE for one in done.agreed)
    assert "Python" not in Path("out/deploy.prototxt").read_text()
    folder, own = model.from_folder("out", "onnx"), model.from_solver(solver, weights)
    side = folder.preprocessing.crop[0]
    images = np.random.default_rng(0).normal(0, 50, (3, 3, side, side)).astype(np.float32)
    found, expected = folder.probabilities(images), own.probabilities(images)
    assert found.keys() == expected.keys() and len(found) == 2
    for level, rows in expected.items():
        assert np.ptp(rows, axis=1).min() > 1e-3
        np.testing.assert_allclose(found[level], rows, atol=1e-5)


def packages(folder, *without):
    """A folder with links to the packages of this Python but Caffe and the repository."""
    folder.mkdir()
    for path in Path(onnx.__file__).parents[1].iterdir():
        ours = path.suffix == ".pth" or path.name.startswith(("__editable__", "caffe", *without))
        if not ours:
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("without", [(), ("onnxruntime",)], ids=["ONNX Runtime", "OpenCV"])
@pytest.mark.parametrize("variant, resize", [("ours", "squeeze"), ("sm", "shorter")])
def test_the_folder_works_alone(variant, resize, without, tmp_path, monkeypatch):
    """example.py, elsewhere, in a Python that finds neither the repository nor Caffe."""
    (tmp_path / "work").mkdir()
    solver, weights = export_nets.grafted(tmp_path / "work", SMALL, variant)
    monkeypatch.chdir(tmp_path / "work")
    manifest = Path("data/manifest.json")
    manifest.write_text(manifest.read_text().replace('"squeeze"', f'"{resize}"'))
    export.export(solver, tmp_path / "model", weights)
    (tmp_path / "work").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = ["0.png", "1.png", "2.jpg"]  # the last is decoded at a quarter of its size
    for name, shape in zip(names, [(300, 700, 3), (90, 260, 3), (1300, 1100, 3)]):
        picture = cv2.resize(rng.integers(256, size=(9, 9, 3), dtype=np.uint8), shape[1::-1])
        cv2.imwrite(name, picture)
    found = packages(tmp_path / "packages", *without)
    alone = [sys.executable, "-S"]
    environment = {"PYTHONPATH": str(found), "PATH": os.environ["PATH"]}
    for module in ("tools", "data_prep", "caffe", *without):
        tried = subprocess.run(
            [*alone, "-c", f"import {module}"], env=environment, capture_output=True, text=True
        )
        assert "ModuleNotFoundError" in tried.stderr, module
    done = subprocess.run(
        [*alone, "model/example.py", *names],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = model.from_folder("model", "caffe")
    levels = labels.read("model").levels
    lines = iter(done.stdout.splitlines())
    for name in names:
        assert next(lines) == name
        blob = photographs.blob_of(Path(name).read_bytes(), loaded.preprocessing)
        ours = loaded.probabilities(blob)
        for number, level in enumerate(levels):
            wanted = f"  {level.name}: "
            if number in ours:
                best = int(ours[number][0].argmax())
                wanted += f"{level.classes[best]}  {ours[number][0, best]:.1%}"
            else:
                best = levels[number - 1].parents[best]
                wanted += level.classes[best]
            assert next(lines) == wanted
    assert (len(levels[1].parents or ()), levels[1].output) == (
        0,
        "prob_fc9_coarse" if variant == "ours" else None,
    )


def test_the_same_net_gives_the_same_bytes(here):
    solver, weights = here
    for folder in ("one", "two", "two"):  # the third replaces the second
        export.export(solver, folder, weights)
    assert contents("one") == contents("two") and set(contents("one")) == {
        *export.NAMES,
        place.MANIFEST,
    }
    assert sorted(os.listdir(".")) == ["data", "nets", "one", "two"]


def test_only_what_the_deploy_net_needs(here):
    """Of weights with data layers, other classifiers and gradients, as a snapshot has them."""
    solver, weights = here
    net = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    net.layer.add(name="label", type="Data").data_param.source = "data/train_labels"
    extra = net.layer.add(name="aux", type="InnerProduct")
    extra.blobs.add(data=[1, 2], shape=caffe_pb2.BlobShape(dim=[2]))
    learned = next(layer.blobs[0] for layer in net.layer if layer.blobs)
    learned.diff.extend(learned.data)
    Path("snapshot.caffemodel").write_bytes(net.SerializeToString())
    export.export(solver, "out", "snapshot.caffemodel")
    kept = caffe_pb2.NetParameter.FromString(Path("out/weights.caffemodel").read_bytes())
    deploy = text_format.Parse(Path("out/deploy.prototxt").read_text(), caffe_pb2.NetParameter())
    assert [layer.name for layer in kept.layer] == ["conv", "fc1", "fc8_fine", "fc9_coarse"]
    assert {layer.name for layer in kept.layer} < {layer.name for layer in deploy.layer}
    for layer in kept.layer:
        assert {field.name for field, _ in layer.ListFields()} == {"name", "type", "blobs"}
        assert not any(blob.diff for blob in layer.blobs)
    trained = caffe.Net("out/deploy.prototxt", str(weights), caffe.TEST)
    alone = caffe.Net("out/deploy.prototxt", "out/weights.caffemodel", caffe.TEST)
    for name, blobs in trained.params.items():
        for one, other in zip(blobs, alone.params[name], strict=True):
            np.testing.assert_array_equal(one.data, other.data)


# --- a net that would answer otherwise is not exported --------------------------------------------


def leaky(graph, layer):
    graph.write("LeakyRelu", layer.bottoms, layer.tops[0], alpha=0.5)


def without_padding(graph, layer):
    """A mean that does not count the zeros of the padding."""
    graph.write(
        "AveragePool",
        layer.bottoms,
        layer.tops[0],
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )


def for_three(graph, layer):
    """A shape that is right for three images only."""
    target = graph.whole(layer, "fixed", layer.outputs[0])
    graph.write("Reshape", [layer.bottoms[0], target], layer.tops[0])


def smallest(graph, layer):
    """The distribution turned around."""
    opposite = graph.step(layer, "opposite", "Neg", layer.bottoms)
    graph.write("Softmax", [opposite], layer.tops[0], axis=1)


def unreadable(graph, layer):
    """Valid ONNX that OpenCV does not have."""
    graph.step(layer, "unused", "NonZero", layer.bottoms)
    graph.write("Relu", layer.bottoms, layer.tops[0])


@pytest.mark.parametrize("reader", ["onnxruntime", "opencv"])
@pytest.mark.parametrize(
    "kind, broken, says",
    [
        ("ReLU", leaky, "they part at layer relu (ReLU), which differs by up to "),
        ("Pooling", without_padding, "they part at layer pool (Pooling), which differs by"),
        ("Softmax", smallest, "they part at layer prob_fine (Softmax)"),
    ],
)
def test_a_wrong_builder_is_found_out(kind, broken, says, reader, here, monkeypatch):
    monkeypatch.setitem(table.WRITERS, kind, broken)
    with pytest.raises(UserError) as refused:
        export.export(*here[:1], "out", here[1], readers=(reader,))
    text = str(refused.value)
    assert text.startswith(readers.READERS[reader].name) and says in text
    assert "does not agree with Caffe, so nothing is exported: prob_f" in text
    assert sorted(os.listdir(".")) == ["data", "nets"]


def test_a_fixed_batch_is_found_out(here, monkeypatch):
    monkeypatch.setitem(table.WRITERS, "Dropout", for_three)
    with pytest.raises(UserError, match=r"shape \[3, 8\] in ONNX and \(3, 8\) in Caffe"):
        export.export(here[0], "out", here[1])
    assert sorted(os.listdir(".")) == ["data", "nets"]


def test_a_model_that_opencv_cannot_read(here, monkeypatch):
    monkeypatch.setitem(table.WRITERS, "ReLU", unreadable)
    with pytest.raises(UserError, match="OpenCV .* can't read the exported model: .*NonZero"):
        export.export(here[0], "out", here[1])
    export.export(here[0], "out", here[1], readers=("onnxruntime",))
    assert "ONNX Runtime" in Path("out/README.md").read_text()


def test_wrong_caffe_files_are_found_out(here, monkeypatch):
    """OpenCV's reading of the Caffe files, with another slope of the ReLU."""

    class Other(readers.OpenCvCaffe):
        def __init__(self, folder, input):
            other = Path("other")
            other.mkdir()
            for name in (model.NET, model.WEIGHTS):
                text = (folder / name).read_bytes()
                (other / name).write_bytes(
                    text.replace(
                        b'type: "ReLU"', b'type: "ReLU" relu_param { negative_slope: 0.5 }'
                    )
                )
            super().__init__(other, input)

    monkeypatch.setitem(readers.READERS, "opencv-caffe", Other)
    with pytest.raises(UserError, match=r"deploy.prototxt\) does not .* at layer relu \(ReLU\)"):
        export.export(here[0], "out", here[1])


class Fake:
    name = "fake"

    def __init__(self, rows):
        self.rows = rows

    def compute(self, batch, names):
        return {name: np.array(self.rows, np.float32)[: len(batch)] for name in names}


@pytest.mark.parametrize(
    "rows, says",
    [
        ([[0.5, 0.5 + 2e-5, 0]], "p of 1 images at a time differs by 2"),
        ([[0.5 - 4e-6, 0.5 + 4e-6, 0]], "has another most probable class"),
        ([[np.nan, 0.5, 0]], "differs by nan"),
        ([[0.5, 0.5]], r"has the shape \(1, 2\) there"),
    ],
)
def test_what_counts_as_agreement(rows, says):
    ours = np.array([[0.5, 0.5, 0]], np.float32)
    batch = np.zeros((1, 3, 2, 2), np.float32)
    assert agreement.compare(Fake(ours), [(batch, {"p": ours})], ["p"]).largest == 0
    with pytest.raises(agreement.Disagreement, match=says):
        agreement.compare(Fake(rows), [(batch, {"p": ours})], ["p"])


def test_differences_that_add_up():
    layers = [caffe_pb2.LayerParameter(name=name, type="ReLU") for name in "ab"]
    ours = {name: np.full(3, 100, np.float32) for name in "ab"}
    theirs = [(layer, layer.name, ours[layer.name] + 1e-3 * i) for i, layer in enumerate(layers)]
    clause = agreement.where_they_part(ours, iter(theirs))
    assert (
        clause == "no layer parts: differences add up, to 1e-05 of the largest value at layer b "
        "(ReLU)"
    )


# --- what is there stays -------------------------------------------------------------------------


def a_file(path):
    path.write_text("mine")


def a_folder(path):
    path.mkdir()
    (path / "photo.jpg").write_text("mine")


def a_changed_export(path):
    readme = path / "README.md"
    readme.write_text(readme.read_text() + "My notes.\n")


def another_file(path):
    (path / "notes.txt").write_text("mine")


def a_link_inside(path):
    (path / "labels.json").unlink()
    (path / "labels.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "exported, make, says",
    [
        (False, a_file, "out is not a folder"),
        (False, a_folder, "out exists and is not what .* it has no export.json"),
        (True, a_changed_export, "README.md has been changed"),
        (True, another_file, "it holds notes.txt"),
        (True, a_link_inside, "it holds labels.json"),
    ],
)
def test_what_no_export_made_stays(exported, make, says, here):
    if exported:
        export.export(here[0], "out", here[1])
    make(Path("out"))
    before = contents("out") if Path("out").is_dir() else None
    with pytest.raises(UserError, match=says):
        export.export(here[0], "out", here[1])
    assert Path("out").is_file() if before is None else contents("out") == before
    assert sorted(os.listdir(".")) == ["data", "nets", "out"]


@pytest.mark.parametrize("name", [".out.partial", ".out.old"])
def test_names_beside_the_folder(name, here):
    a_folder(Path(name))
    with pytest.raises(UserError, match=f"needs the name .*{name}, which no export made"):
        export.export(here[0], "out", here[1])
    assert contents(name) == {"photo.jpg": b"mine"}


def test_leftovers_of_killed_exports(here):
    """Files of an export that was killed, and an export killed between its two renames."""
    export.export(here[0], "out", here[1])
    first = contents("out")
    Path("out").rename(".out.old")
    Path(".out.partial").mkdir()
    Path(".out.partial/model.onnx").write_bytes(b"half")
    with pytest.raises(UserError, match="not found"):  # fails before it writes
        export.export(here[0], "out", "nowhere.caffemodel")
    export.export(here[0], "out", here[1])
    assert contents("out") == first
    assert sorted(os.listdir(".")) == ["data", "nets", "out"]


def test_a_failed_export_keeps_the_old_one(here, monkeypatch):
    export.export(here[0], "out", here[1])
    first = contents("out")
    monkeypatch.setitem(table.WRITERS, "ReLU", leaky)
    with pytest.raises(UserError, match="does not agree"):
        export.export(here[0], "out", here[1])
    assert contents("out") == first and sorted(os.listdir(".")) == ["data", "nets", "out"]


def test_two_exports_at_once(here):
    where = place.Place.of("out", export.NAMES)
    with where.partial():
        with pytest.raises(UserError, match="another export is writing out"):
            export.export(here[0], "out", here[1])
    export.export(here[0], "out", here[1])


def test_links_are_followed(here):
    Path("real").mkdir()
    Path("link").symlink_to("real")
    export.export(here[0], "link", here[1])
    assert Path("link").is_symlink() and (Path("real") / place.MANIFEST).is_file()


# --- the card and the command --------------------------------------------------------------------


def evaluated(weights, levels=("plant", "genus")):
    """results/mine_mini_ours.json of some weights."""
    rng = np.random.default_rng(0)
    answers = {
        level: made_results.results.Answers(
            rng.integers(2, size=8), rng.integers(2, size=8), np.ones(8)
        )
        for level in levels
    }
    path = Path("results/mine_mini_ours.json")
    path.parent.mkdir()
    made_results.write(path, answers)
    content = json.loads(path.read_text())
    content["weights_sha256"] = files.sha256(weights)
    path.write_text(json.dumps(content))
    return path


def test_the_card_shows_an_evaluation_of_these_weights_only(here):
    path = evaluated(here[1])
    done = export.export(here[0], "out", here[1], license="CC BY 4.0")
    card = Path("out/README.md").read_text()
    assert done.result.images == 8 and "Top-1 on 8 test images" in card
    assert "| plant | 7 | `prob_fine` | " in card and " % |" not in card
    assert "**License.** CC BY 4.0" in card and files.sha256(here[1]) in card
    assert "`mine`: 3 train, 4 test images" in card and "7 plant -> 3 genus. OURS" in card
    path.write_text(path.read_text().replace(files.sha256(here[1]), "0" * 64))
    assert export.export(here[0], "out", here[1]).result is None
    assert "have not been evaluated" in Path("out/README.md").read_text()
    with pytest.raises(UserError, match="is the evaluation of other weights"):
        export.export(here[0], "out", here[1], result=path)


@pytest.mark.parametrize(
    "options, status, says",
    [
        (("--readers", "torch"), 2, "--readers: torch is not of onnxruntime, opencv, opencv-caffe"),
        (("--license", "\t"), 2, "--license: one line of text"),
        (("--photographs", "none.jpg"), 1, "none.jpg not found"),
        (("--weights", "none"), 1, "none not found"),
    ],
)
def test_wrong_options(options, status, says, small, tmp_path):
    arguments = ["--solver", small[0], "--weights", small[1], "--out", tmp_path / "out", *options]
    done = command(small, *arguments)
    assert done.returncode == status and says in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def command(small, *arguments):
    """tools/export.py in the folder of the small net."""
    return programs.run("tools/export.py", *arguments, cwd=small[0].parents[1])


def test_the_command(small, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 50, 3), 99, np.uint8))
    done = command(
        small,
        *("--solver", small[0], "--weights", small[1], "--out", tmp_path / "out"),
        *("--photographs", tmp_path / "a.png"),
    )
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/out/: " in done.stdout and "ONNX Runtime" in done.stdout
    assert "the model card has no accuracy" in done.stdout


def test_a_net_that_onnx_does_not_have(tmp_path, monkeypatch):
    """Named by layer and type, and nothing is left."""
    text = SMALL.replace(
        POOLED, 'layer { name: "argmax" type: "ArgMax" bottom: "conv" top: "pool" '
        "argmax_param { axis: 1 } }\n"
    )  # fmt: skip
    solver, weights = export_nets.grafted(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"layer argmax \(ArgMax\) can't be written as ONNX"):
        export.export(solver, "out", weights)
    assert not Path("out").exists() and not list(tmp_path.glob(".out*"))


def test_the_data_set_is_needed_for_photographs(here):
    assert_error(run("export", "--solver", "nowhere.prototxt", "--out", "out"), "not found")
    solver = Path("nets", here[0].name)
    Path("data").unlink()
    with pytest.raises(UserError, match="manifest.json not found"):
        export.export(solver, "out", here[1])
