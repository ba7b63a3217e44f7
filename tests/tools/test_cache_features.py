"""tools/cache_features.py: features against plain slicing, training on them, interruptions."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import caffe
import cv2
import numpy as np
import programs
import pytest
from caffe.proto import caffe_pb2
from commands import ROOT, assert_error, run

from data_prep import lmdb_io, manifest
from data_prep.feature_rows import RowFile
from data_prep.label_tree import Hierarchy
from tools.nets import head

SIDE, CROP, CHANNELS = 20, 12, 5
MEAN = (104, 117, 123)
PLACES = {"center": (4, 4), "top-left": (0, 0), "top-right": (0, 8), "bottom-left": (8, 0)}
PLACES["bottom-right"] = (8, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the data set `data`, and a solver and weights of a small net on it."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for number in range(6):
        place = folder / "photos" / "ab"[number // 3] / f"kind {number}"
        place.mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            image[:, : SIDE // 2] //= 1 + number
            cv2.imwrite(str(place / f"{i}.png"), image)
    build = ["--root", folder / "photos", "--out", folder / "data", "--size", SIDE]
    done = run_path(
        "data_prep/build_lmdb.py", "folder", *build, "--encoded", "png", "--validation", 6
    )
    assert done.returncode == 0, done.stderr
    return folder, *net_of(folder)


def run_path(path, *arguments):
    """A command of data_prep, as commands.run."""
    return programs.run(path, *arguments)


def net_of(folder, mirror="true", weights=None):
    net = caffe_pb2.NetParameter(name="small")
    for phase, split in ((caffe.TRAIN, "train"), (caffe.TEST, "test")):
        for top, kind in (("data", "images"), ("label", "labels")):
            layer = net.layer.add(name=top, type="Data", top=[top], include=[dict(phase=phase)])
            layer.data_param.source = f"{folder}/data/{split}_{kind}"
            layer.data_param.batch_size, layer.data_param.backend = 4, 1
            if top == "data":
                layer.transform_param.crop_size = CROP
                layer.transform_param.mean_value.extend(MEAN)
                layer.transform_param.scale = 0.5
                layer.transform_param.mirror = phase == caffe.TRAIN and mirror == "true"
    head.add_slice(net, 2)
    convolution = dict(
        num_output=CHANNELS, kernel_size=[1], weight_filler=dict(type="gaussian", std=0.1)
    )
    net.layer.add(
        name="conv",
        type="Convolution",
        bottom=["data"],
        top=["conv"],
        convolution_param=convolution,
    )
    net.layer.add(name="relu", type="ReLU", bottom=["conv"], top=["conv"])
    net.layer.add(
        name="pool",
        type="Pooling",
        bottom=["conv"],
        top=["pool"],
        pooling_param=dict(pool=1, global_pooling=True),
    )
    classifier = dict(num_output=6, weight_filler=dict(type="gaussian", std=0.1))
    net.layer.add(
        name="fc8_fine",
        type="InnerProduct",
        bottom=["pool"],
        top=["fc8_fine"],
        inner_product_param=classifier,
    )
    net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=["fc8_fine", "label_1"], top=["loss"])
    path = folder / f"small_{mirror}.prototxt"
    path.write_text(str(net))
    solver = folder / f"small_{mirror}_solver.prototxt"
    solver.write_text(
        f'net: "{path}"\nbase_lr: 0.01 lr_policy: "fixed" snapshot_prefix: "{path}"\n'
    )
    weights = weights or folder / "small.caffemodel"
    if not weights.exists():
        caffe.set_random_seed(3)
        caffe.Net(str(path), caffe.TEST).save(str(weights))
    return solver, weights


def cache(made, out, *more, solver=None):
    _, own, weights = made
    return run(
        "cache_features", "--solver", solver or own, "--weights", weights, "--out", out, *more
    )


@pytest.fixture(scope="module")
def cached(made):
    out = made[0] / "cached"
    done = cache(made, out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def records(folder, split):
    """[(name, label, feature)] of a split."""
    rows = [line.split("\t") for line in (folder / f"{split}.tsv").read_text().splitlines()[1:]]
    datums = [lmdb_io.parse_datum(value) for _, value in lmdb_io.items(folder / f"{split}_images")]
    return [
        (name, int(label), lmdb_io.datum_feature(datum))
        for (_, name, label, _), datum in zip(rows, datums, strict=True)
    ]


def reference(made, name, crop):
    """The feature, by slices of the photograph and float64 sums."""
    folder, _, weights = made
    model = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    blobs = next(layer.blobs for layer in model.layer if layer.name == "conv")
    filters = np.array(blobs[0].data).reshape(CHANNELS, 3)
    image = cv2.imread(str(folder / "photos" / name)).astype(np.float64)
    top, left = PLACES[crop.removesuffix("-mirrored")]
    part = image[top : top + CROP, left : left + CROP]
    if crop.endswith("-mirrored"):
        part = part[:, ::-1]
    maps = (part - MEAN) * 0.5 @ filters.T + np.array(blobs[1].data)
    return np.maximum(maps, 0).mean(axis=(0, 1))


def test_features_are_those_of_each_crop(made, cached):
    found = records(cached[0], "train")
    images = {name.rpartition("@")[0] for name, _, _ in found}
    assert len(found) == 10 * len(images) and len({name for name, _, _ in found}) == len(found)
    # Each pass over the images has every image once, and passes differ in order.
    passes = [
        [name.rpartition("@")[0] for name, _, _ in found[start : start + len(images)]]
        for start in range(0, len(found), len(images))
    ]
    assert all(set(one) == images for one in passes) and passes[0] != passes[1]
    for name, _, feature in found[::7]:
        image, _, crop = name.rpartition("@")
        np.testing.assert_allclose(feature, reference(made, image, crop), rtol=1e-4, atol=1e-4)
    for split in ("val", "test"):
        for name, _, feature in records(cached[0], split):
            np.testing.assert_allclose(
                feature, reference(made, name, "center"), rtol=1e-4, atol=1e-4
            )


def test_the_result_is_a_data_set(made, cached):
    out, text = cached
    assert "300 train, 6 val, 12 test features of 5 values" in text
    facts, source = manifest.read(out), manifest.read(made[0] / "data")
    assert facts.channels == CHANNELS and facts.levels == source.levels
    for split in ("val", "test"):
        assert facts.splits[split].sha256["labels"] == source.splits[split].sha256["labels"]
    done = run_path("data_prep/verify_lmdb.py", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "features have 5 values" in done.stdout
    assert "up to date" in cache(made, out).stdout


def test_verify_finds_a_changed_feature(cached, tmp_path):
    import lmdb

    out = tmp_path / "changed"
    shutil.copytree(cached[0], out)
    with lmdb.open(str(out / "test_images")) as env, env.begin(write=True) as transaction:
        datum = caffe_pb2.Datum.FromString(transaction.get(b"00000003"))
        datum.float_data[1] = np.nan
        transaction.put(b"00000003", datum.SerializeToString())
    done = run_path("data_prep/verify_lmdb.py", out)
    assert done.returncode == 1 and "test 00000003: the feature holds nan or inf" in done.stdout


@pytest.mark.parametrize("damage", ["none", "cut", "zeros", "other values"])
def test_an_interrupted_run_ends_with_the_same_bytes(made, cached, tmp_path, damage):
    """The state of a run that was killed, whose last rows did not all reach the disk."""
    out = tmp_path / "again"
    assert cache(made, out).returncode == 0
    wanted = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")}
    shutil.rmtree(out)
    state = tmp_path / ".again.partial" / "state"
    state.mkdir(parents=True)
    (state.parent / "data").mkdir()
    facts = json.loads(wanted[Path("manifest.json")])
    before = manifest.Wanted.__dataclass_fields__
    text = json.dumps({key: facts[key] for key in before}, indent=1, ensure_ascii=False) + "\n"
    (state / "wanted.json").write_text(text)
    rows = RowFile(state / "rows.checkpoint", CHANNELS)
    listed = [
        line.split("\t")[1] for line in (made[0] / "data/train.tsv").read_text().split("\n")[1:3]
    ]
    own = {name: feature for name, _, feature in records(cached[0], "train")}
    names = [
        f"{place}{kind}"
        for place in ("center", "top-left", "bottom-right", "top-right", "bottom-left")
        for kind in ("", "-mirrored")
    ]
    rows.append(np.stack([own[f"{listed[0]}@{crop}"] for crop in names]))
    raw = (state / "rows.checkpoint").read_bytes()
    if damage == "cut":
        (state / "rows.checkpoint").write_bytes(raw[:-7])
    if damage == "zeros":
        (state / "rows.checkpoint").write_bytes(raw[:100] + bytes(len(raw) - 100))
    if damage == "other values":  # which show that rows are not computed again
        (state / "rows.checkpoint").unlink()
        RowFile(state / "rows.checkpoint", CHANNELS).append(np.full((10, CHANNELS), 7.5))
    done = cache(made, out)
    assert done.returncode == 0, done.stderr
    if damage == "other values":
        kept = [name for name, _, feature in records(out, "train") if (feature == 7.5).all()]
        assert sorted(kept) == sorted(f"{listed[0]}@{crop}" for crop in names)
        return
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")} == wanted


def test_reordered(made, cached, tmp_path):
    """--order hierarchical: batches of classes with their siblings, of the same features."""
    out = tmp_path / "ordered"
    sizes = ("--groups", 2, "--classes", 4, "--images", 3)
    done = run(
        "cache_features", "--reorder", cached[0], "--order", "hierarchical", *sizes, "--out", out
    )
    assert done.returncode == 0, done.stderr
    before = {name: feature for name, _, feature in records(cached[0], "train")}
    found = records(out, "train")
    for name, _, feature in found:
        assert np.array_equal(feature, before[name])
    for start in range(0, len(found) - 11, 12):
        labels = [label for _, label, _ in found[start : start + 12]]
        assert sorted(labels.count(label) for label in set(labels)) == [3, 3, 3, 3]
    assert manifest.read(out).splits["train"].order["batch"] == 12
    assert run_path("data_prep/verify_lmdb.py", out).returncode == 0


def test_shuffled_parents(made, cached, tmp_path):
    """The same features and fine labels; the tree of the same shape, with other members."""
    out = tmp_path / "control"
    words = ("--reorder", cached[0], "--shuffle-parents", 2, "--out", out)
    done = run("cache_features", *words)
    assert done.returncode == 0 and "parents are shuffled, by the seed 2" in done.stdout, (
        done.stderr
    )
    done = run_path("data_prep/verify_lmdb.py", out)
    assert done.returncode == 0, done.stdout + done.stderr
    facts, source = manifest.read(out), manifest.read(cached[0])
    assert (facts.options.shuffled_parents, source.options.shuffled_parents) == (2, None)
    before, tree = (Hierarchy.read(folder / "hierarchy.tsv") for folder in (cached[0], out))
    assert tree.names[0] == before.names[0] and tree.levels == before.levels
    assert tree.names[1] == tuple(f"{name} (shuffled, seed 2)" for name in before.names[1])
    assert tree.group_sizes(1).tolist() == before.group_sizes(1).tolist()
    assert tree.labels.tolist() != before.labels.tolist()
    for split in ("train", "val", "test"):
        # Names, fine labels and features, in the same order; all labels are of the new tree.
        assert facts.splits[split].sha256["images"] == source.splits[split].sha256["images"]
        assert facts.splits[split].sha256["labels"] != source.splits[split].sha256["labels"]
        for (_, value), (_, label, _) in zip(
            lmdb_io.items(out / f"{split}_labels"), records(out, split), strict=True
        ):
            assert list(lmdb_io.parse_datum(value).float_data) == tree.labels[label].tolist()
    again = tmp_path / "again" / "control"
    again.parent.mkdir()
    assert run("cache_features", *words[:-1], again).returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == {
        path.name: path.read_bytes() for path in again.iterdir() if path.is_file()
    }
    # What is made of it stays a control, and says so; a shuffle of a shuffle is refused.
    ordered = tmp_path / "ordered"
    assert run("cache_features", "--reorder", out, "--seed", 1, "--out", ordered).returncode == 0
    assert manifest.read(ordered).options.shuffled_parents == 2
    words = ("--reorder", out, "--shuffle-parents", 3, "--out", tmp_path / "o")
    assert_error(run("cache_features", *words), "has shuffled parents: give the folder with")
    done = cache(made, tmp_path / "o", "--shuffle-parents", 3)
    assert done.returncode == 2 and "--shuffle-parents needs --reorder" in done.stderr


def test_features_of_a_control(made, cached, tmp_path):
    """Features of a data set of images with shuffled parents are a control of the same tree."""
    folder, _, weights = made
    words = ("--root", folder / "photos", "--out", tmp_path / "data", "--size", SIDE)
    words += ("--encoded", "png", "--validation", 6, "--shuffle-parents", 2)
    done = run_path("data_prep/build_lmdb.py", "folder", *words)
    assert done.returncode == 0, done.stderr
    solver, _ = net_of(tmp_path, weights=weights)
    out, other = tmp_path / "cached", tmp_path / "reordered"
    done = cache((tmp_path, solver, weights), out)
    assert done.returncode == 0 and "parents are shuffled, by the seed 2" in done.stdout, (
        done.stderr
    )
    assert run_path("data_prep/verify_lmdb.py", out).returncode == 0
    words = ("--reorder", cached[0], "--shuffle-parents", 2, "--out", other)
    assert run("cache_features", *words).returncode == 0
    one, two = manifest.read(out), manifest.read(other)
    assert one.options.shuffled_parents == two.options.shuffled_parents == 2
    assert one.splits == two.splits and one.checksums == two.checksums
    words = ("--reorder", out, "--shuffle-parents", 2, "--out", tmp_path / "o")
    assert_error(run("cache_features", *words), "has shuffled parents: give the folder with")


def test_training_on_features(cached, tmp_path):
    """make_prototxt, caffe train, flows, evaluate, plot_log: as on any data set."""
    out = tmp_path / "nets"
    options = ("--net", "embedding", "--variant", "ours", "--name", "small", "--out", out)
    done = run("make_prototxt", "--data", cached[0], *options, "--max-iter", 40, "--diagnostics")
    assert done.returncode == 0, done.stderr
    solver = out / "small_embedding_ours_solver.prototxt"
    assert "-weights" not in solver.read_text()
    deploy = caffe.Net(str(out / "small_embedding_deploy.prototxt"), caffe.TEST)
    assert tuple(deploy.blobs["data"].shape) == (1, CHANNELS, 1, 1)
    prefix = tmp_path / "model"
    text = solver.read_text().replace("snapshots/small_embedding_ours/model", str(prefix))
    solver.write_text(text)
    flows = run("flows", "--solver", solver, "--iterations", 2)
    assert flows.returncode == 0 and "gradient into fc7" in flows.stdout, flows.stderr
    (ROOT / "snapshots/small_embedding_ours").rmdir()
    done = subprocess.run(
        ["caffe", "train", "-solver", solver],
        capture_output=True,
        text=True,
        env={**os.environ, "GLOG_minloglevel": "0"},
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "log").write_text(done.stderr)
    drawn = run("plot_log", tmp_path / "log", "--out", tmp_path / "curves.png")
    assert drawn.returncode == 0, drawn.stderr
    done = run("evaluate", "--solver", solver, "--split", "val", "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert run("check_env", "--solver", solver).returncode == 0


def test_refusals(made, cached, tmp_path):
    folder, solver, weights = made
    options = ("--out", tmp_path / "nets")
    assert_error(
        run("make_prototxt", "--data", cached[0], "--net", "squeezenet", *options),
        "holds features, and SqueezeNet v1.1 reads images",
    )
    assert_error(
        run("make_prototxt", "--data", folder / "data", "--net", "embedding", *options),
        "holds images, and an embedding of stored features reads features",
    )
    assert_error(
        run("cache_features", "--reorder", folder / "data", "--out", tmp_path / "o"),
        "holds images: --reorder takes what this command wrote",
    )
    assert_error(cache(made, folder / "photos"), "is not a built data set")
    still, _ = net_of(folder, mirror="false")
    done = cache(made, tmp_path / "o", "--crops", 6, solver=still)
    assert_error(done, "--crops 6: there are 5, as nothing is mirrored")
    done = cache(made, tmp_path / "o", "--blob", "nothing")
    assert_error(done, "has no blob nothing that depends on the images")
    assert not (tmp_path / "o").exists()


def test_frozen(cached, tmp_path):
    """--freeze: the embedding stays as it starts, the classifiers learn."""
    options = ("--net", "embedding", "--variant", "csm", "--name", "still", "--freeze")
    done = run("make_prototxt", "--data", cached[0], *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    solver = caffe.get_solver(str(tmp_path / "still_embedding_csm_solver.prototxt"))
    (ROOT / "snapshots/still_embedding_csm").rmdir()
    before = {name: blobs[0].data.copy() for name, blobs in solver.net.params.items()}
    solver.step(3)
    same = {name: (solver.net.params[name][0].data == before[name]).all() for name in before}
    assert same == {"fc7": True, "fc8_fine": False, "fc9_coarse": False}
