"""tools/draw_net.py: the head as it is in the net, and a figure of it."""

import cv2
import pytest
from caffe.proto import caffe_pb2
from commands import run
from google.protobuf import text_format

from tools.nets import files, tables
from tools.nets.diagram import diagram


def net(dataset, name, variant):
    text = files.file_texts(tables.DATASETS[dataset], tables.NETS[name], "nets", (variant,))
    return text_format.Parse(text[f"{dataset}_{name}_train_val.prototxt"], caffe_pb2.NetParameter())


def draw(*options):
    return run("draw_net", *options)


@pytest.mark.parametrize(
    "name, feature, dropout",
    [
        ("cub_alexnet", "fc7", 0.5),
        ("cub_googlenet", "pool5/7x7_s1", 0.4),
        ("cub_vgg16", "fc7", 0.5),
        ("cub_bcnn", "bilinear", 0),
        ("cub_squeezenet", "pool9", 0.5),
    ],
)
@pytest.mark.parametrize("variant", list(tables.STAGES))
def test_diagram(name, feature, dropout, variant):
    stages = tables.STAGES[variant]
    shown = diagram(net(*name.split("_"), variant), stages)
    assert (shown.name, shown.feature) == (name, feature)
    assert shown.dropout == pytest.approx(dropout)
    own = tables.NETS[name.removeprefix("cub_")].strengths
    weights = {loss.name: loss.weight for loss in tables.LOSSES.values()}
    weights |= {loss: one.weight for loss, one in own.items() if one.weight is not None}
    rows = [tables.LOSSES[stage] for stage in stages if stage in tables.LOSSES]
    expected = {bool(row.scored): (row.name, pytest.approx(weights[row.name])) for row in rows}
    assert (shown.metric, shown.scored) == (expected.get(False), expected.get(True))
    assert shown.parts == ("fgon" in stages)
    heads = ("fc8_fine", "fc9_coarse", "fc10_coarse")[: 3 if "csm" in stages else 1]
    assert tuple(classifier.name for classifier in shown.classifiers) == heads
    assert [classifier.classes for classifier in shown.classifiers] == [200, 40, 13][: len(heads)]
    assert [classifier.level for classifier in shown.classifiers] == [1, 2, 3][: len(heads)]
    for level, classifier in enumerate(shown.classifiers):
        below = (feature, *heads[:level])
        alone = {"flat", "fgon"}.intersection(stages)
        assert classifier.reads == (
            below if "skip" in stages else below[:1] if alone else below[-1:]
        )


@pytest.mark.parametrize(
    "prototxt",
    ["cars_bbox_bcnn_ours_solver", "cub_googlenet_sm_solver", "cards_squeezenet_train_val"],
)
def test_png(tmp_path, prototxt):
    out = tmp_path / "new/head.png"
    result = draw(f"prototxt/{prototxt}.prototxt", "--out", out)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    image = cv2.imread(str(out))
    blue = (image[..., 0] > 180) & (image[..., 2] < 80)  # the skipping connections
    assert blue.any() == ("sm_solver" not in prototxt)
    assert image.shape[1] > image.shape[0] > 200


def test_svg(tmp_path):
    result = draw("prototxt/cub_googlenet_ours_solver.prototxt", "--out", tmp_path / "head.svg")
    assert result.returncode == 0, result.stderr
    assert "<svg" in (tmp_path / "head.svg").read_text()


@pytest.mark.parametrize(
    "content, out, says",
    [
        (None, "a.png", "not found"),
        ("what", "a.png", "is not a solver"),
        ("base_lr: 1", "a.png", "does not name a net"),
        ("net: 'no.prototxt'", "a.png", "not found"),
        ("layer { name: 'a' type: 'Input' top: 'data' }", "a.png", "fc8_fine"),
        ("", "a.txt", "--out"),
    ],
)
def test_refusals(tmp_path, content, out, says):
    path = tmp_path / "a.prototxt"
    if content is not None:
        path.write_text(content)
    result = draw(path, "--out", tmp_path / out)
    assert result.returncode == 1 and says in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / out).exists()
