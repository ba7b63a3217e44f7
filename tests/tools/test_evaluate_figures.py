"""The figures beyond accuracy that tools/evaluate.py writes, on answers known beforehand."""

import json

import cv2
import made_results
import numpy as np
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import assert_error, run

from data_prep.common.errors import UserError
from tools import features, results, scores, scoring

# class, lit pixel: wrong are 2 -> 3, a sibling; 0 -> 2, of another group; 4 -> 0, of another half
TRUE = [0, 1, 2, 2, 3, 4, 5, 5, 0, 1, 4]
LIT = [0, 1, 3, 2, 3, 4, 5, 5, 2, 1, 0]
DISTANCES = np.array([0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 3])


@pytest.fixture
def folder(tmp_path):
    tiny.data_set(tmp_path / "data", TRUE, LIT)
    return tmp_path


def evaluate(folder, solver, *more):
    weights = tiny.weights(folder / "w", 3)
    out = folder / "r.json"
    return run("evaluate", "--solver", solver, "--weights", weights, "--out", out, *more)


def test_distances_and_paths(folder):
    done = evaluate(folder, tiny.solver(folder, folder / "data", ("csm",)))
    assert done.returncode == 0, done.stderr
    result = results.read(folder / "r.json")
    assert result.version == results.VERSION and result.crops == 1
    for name, one in result.decodings.items():
        assert one.top1 == pytest.approx((8 / 11, 9 / 11, 10 / 11)), name
        assert one.right_paths.value == pytest.approx(8 / 11)
        assert one.valid_paths.value == 1
        assert one.distance.value == pytest.approx(DISTANCES.mean())
        assert one.severity.value == pytest.approx(2)
        for share in (one.precision, one.recall, one.f1):
            assert share.value == pytest.approx(1 - DISTANCES.sum() / 33)
    low, high = result.decodings["fine"].distance.interval
    assert 0 <= low < DISTANCES.mean() < high <= 3
    assert set(result.distance_at) == {"1", "5"}  # there are six classes
    assert result.distance_at["1"].value == pytest.approx(DISTANCES.mean())
    kind, _, half = result.levels
    assert set(kind.top) == {"1", "2", "3", "5"} and set(half.top_of_sums) == {"1"}
    assert kind.top["1"] == kind.head.top1
    # The lit pixel's class has a probability of 0.35, the others 0.13: two classes have less than
    # the four of the left half, which seven images belong to.
    assert half.top_of_sums["1"] == pytest.approx(7 / 11)
    sure = results.read_predictions(folder / "r.json", result).levels[0].probability
    (bin,) = kind.calibration.bins  # every image has one probability
    assert (bin.images, bin.confidence) == (11, pytest.approx(sure[0], abs=1e-6))
    assert kind.calibration.ece.value == pytest.approx(abs(8 / 11 - sure[0]), abs=1e-6)
    assert [one.level for one in result.retrieval] == ["kind", "group", "half"]
    assert [*folder.glob("*.npy"), *folder.glob(".*")] == []


def test_a_coarse_classifier_that_contradicts_the_fine_one(folder):
    """Weights that name group 0 always: right in 4 of 11 images, and off the fine one's path."""
    solver = tiny.solver(folder, folder / "data", ("csm",))
    weights = caffe_pb2.NetParameter.FromString(tiny.weights(folder / "w", 3).read_bytes())
    for layer in weights.layer[1:]:
        layer.blobs[1].data[0] = 1000
    (folder / "biased").write_bytes(weights.SerializeToString())
    arguments = ("--weights", folder / "biased", "--out", folder / "r.json")
    done = run("evaluate", "--solver", solver, *arguments)
    assert done.returncode == 0, done.stderr
    decodings = results.read(folder / "r.json").decodings
    own = [LIT, [0] * 11, [0] * 11]
    true = tiny.LABELS[TRUE].T
    assert decodings["own"].top1 == pytest.approx(np.mean(own == true, axis=1))
    assert decodings["own"].right_paths.value == pytest.approx(np.all(own == true, axis=0).mean())
    in_group = np.isin(LIT, (0, 1))
    assert decodings["own"].valid_paths.value == pytest.approx(in_group.mean())
    assert decodings["own"].precision.value < decodings["own"].recall.value
    assert decodings["joint"].valid_paths.value == 1
    assert decodings["joint"].top1[1] == pytest.approx(np.mean(true[1] == 0))


def test_features(folder):
    solver = tiny.solver(folder, folder / "data", ())
    done = evaluate(folder, solver, "--features", "--no-retrieval", "--batch", 4)
    assert done.returncode == 0, done.stderr
    path, result = folder / "r.json", results.read(folder / "r.json")
    assert result.retrieval is None and str(features.path_of(path)) in done.stdout
    images = [tiny.image(pixel).transpose(2, 0, 1).ravel() for pixel in LIT]
    np.testing.assert_array_equal(features.read(path, result), images)
    features.path_of(path).write_bytes(b"\x93NUMPY of another evaluation")
    with pytest.raises(UserError, match="is not the file that"):
        features.read(path, result)
    features.path_of(path).write_text("notes")
    assert_error(evaluate(folder, solver, "--features"), "no evaluation wrote it")
    assert features.path_of(path).read_text() == "notes"


# Images of 10 x 12 pixels, of which the net reads 8 x 8: the lit pixel lies in the middle crop.
HIGH, WIDE = 10, 12
TOP, LEFT = 1, 2


def large_image(pixel):
    picture = np.zeros((HIGH, WIDE, 3), np.uint8)
    picture[TOP : TOP + tiny.SIDE, LEFT : LEFT + tiny.SIDE] = tiny.image(pixel)
    picture[0, 3] = picture[-1, 5] = 255, 128, 64  # seen by some of the corners
    return picture


@pytest.fixture
def cropped(folder):
    """Path of a solver whose net is trained with mirror images; its LMDB has larger images."""
    (folder / "data/test_images/data.mdb").unlink()
    datums = (
        caffe_pb2.Datum(
            data=cv2.imencode(".png", large_image(pixel))[1].tobytes(), encoded=True, label=label
        )
        for pixel, label in zip(LIT, TRUE)
    )
    tiny.write_lmdb(folder / "data/test_images", datums)
    solver, net = tiny.solver(folder, folder / "data", ("csm",)), folder / "tiny_train_val.prototxt"
    top = 'type: "Data"\n  top: "data"\n'
    transform = "transform_param { crop_size: 8 mirror: true mean_value: 100 scale: 0.5 }\n"
    net.write_text(net.read_text().replace(top, top + transform))
    return solver


def expected(pixel, crops):
    """(probabilities of the 6 classes, feature) as the loop over the crops gives them."""
    image = large_image(pixel).astype(float).transpose(2, 0, 1)
    down, right = HIGH - tiny.SIDE, WIDE - tiny.SIDE
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    chances, found = [], []
    for mirrored in (False, True)[: crops // 5]:
        for y, x in places:
            part = 0.5 * (image[:, y : y + tiny.SIDE, x : x + tiny.SIDE] - 100)
            part = (part[:, :, ::-1] if mirrored else part).reshape(3, -1)
            score = part[:, :6].sum(axis=0) / 3 / 255
            chances.append(scores.softmax(score[None])[0])
            found.append(part.ravel())
    return np.mean(chances, axis=0), np.mean(found, axis=0)


@pytest.mark.parametrize("crops, batch", [(5, 12), (10, 1), (10, 1000)])
def test_crops(folder, cropped, crops, batch):
    if crops == 5:
        net = folder / "tiny_train_val.prototxt"
        net.write_text(net.read_text().replace("mirror: true", ""))
    done = evaluate(folder, cropped, "--crops", crops, "--batch", batch, "--features")
    assert done.returncode == 0, done.stderr
    result = results.read(folder / "r.json")
    assert result.crops == crops
    answers = results.read_predictions(folder / "r.json", result).levels[0]
    found = features.read(folder / "r.json", result)
    for i, pixel in enumerate(LIT):
        chances, feature = expected(pixel, crops)
        assert answers.probability[i] == pytest.approx(chances.max(), abs=2e-6)
        np.testing.assert_allclose(found[i], feature, rtol=1e-5)


def test_the_middle_crop_is_the_one_that_caffe_reads(folder, cropped):
    net = folder / "tiny_train_val.prototxt"
    net.write_text(net.read_text().replace("mirror: true", ""))
    assert evaluate(folder, cropped, "--features").returncode == 0
    whole = features.read(folder / "r.json", results.read(folder / "r.json"))
    for i, pixel in enumerate(LIT):
        image = 0.5 * (large_image(pixel).astype(np.float32).transpose(2, 0, 1) - 100)
        np.testing.assert_array_equal(whole[i], scoring.cut(image, 8, 5)[4].ravel())


@pytest.mark.parametrize(
    "old, crops, says",
    [("mirror: true", 10, "use --crops 5"), ("crop_size: 8", 5, "without a crop_size")],
)
def test_crops_that_a_net_does_not_have(folder, cropped, old, crops, says):
    net = folder / "tiny_train_val.prototxt"
    net.write_text(net.read_text().replace(old, ""))
    assert_error(evaluate(folder, cropped, "--crops", crops), says)
    assert not (folder / "r.json").exists() and not list(folder.glob(".*"))


def test_images_that_are_too_small_for_crops(folder, cropped):
    """The LMDB of the training split, whose images are as large as what the net reads."""
    tiny.data_set(folder / "data", TRUE, LIT, "train")
    done = evaluate(folder, cropped, "--crops", 10, "--split", "train")
    assert_error(done, "has 8 x 8 pixels, too few for several crops of 8 x 8")
    assert not (folder / "r.json").exists() and not list(folder.glob(".*"))


def rewritten(folder, change):
    """The result r.json after change(content), as another one beside the same table."""
    path = folder / "r.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def strip(content):
    """Leave what results had before they had a version."""
    for name in ("version", "crops", "decodings", "distance_at", "retrieval", "bootstrap"):
        del content[name]
    for level in content["levels"]:
        for name in ("top", "top_of_sums", "calibration"):
            level.pop(name, None)


def test_results_without_a_version_are_read(folder):
    assert evaluate(folder, tiny.solver(folder, folder / "data", ("csm",))).returncode == 0
    path = rewritten(folder, strip)
    result = results.read(path)
    assert (result.version, result.decodings, result.levels[0].top) == (1, None, None)
    done = run("compare", path, path)
    assert done.returncode == 0 and "72.7%" in done.stdout, done.stderr
    pictures = run("draw_predictions", path, "--out", folder / "p.png")
    assert pictures.returncode == 0, pictures.stderr


@pytest.mark.parametrize(
    "version, says",
    [(3, "has format 3, and these tools read 1 to 2"), (0, "has format 0"), ("2", "version is")],
)
def test_unknown_versions_are_refused(tmp_path, version, says):
    wrong = np.ones(4, int)
    path = tmp_path / "r.json"
    made_results.write(path, {"kind": results.Answers(0 * wrong, wrong, 0.5 * wrong)})
    path = rewritten(tmp_path, lambda content: content.update(version=version))
    with pytest.raises(UserError, match=says):
        results.read(path)
    assert_error(run("compare", path), says)
