"""build_lmdb.py: bad files, margins around boxes, raw pixels; Caffe trains on the result."""

import json
import os

import archive
import cv2
import numpy as np
import pytest
import test_aircraft
import test_cars
import test_folder
from archive import refused, run

from data_prep import build_lmdb, image_files, images, lmdb_io, pipeline
from data_prep.build_options import BuildOptions
from data_prep.common.errors import UserError
from data_prep.records import Record


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return archive.make(tmp_path_factory.mktemp("options") / "birds")


def build(birds, out, *options):
    """Build in this process, as it is faster. Returns the manifest."""
    size = ("--size", "32", "--partial", "--jobs", "2")
    build_lmdb.main(["cub", "--root", str(birds), "--out", str(out), *size, *options])
    return json.loads((out / "manifest.json").read_text())


def stored(folder):
    return [lmdb_io.datum_image(lmdb_io.parse_datum(value)) for _, value in lmdb_io.items(folder)]


def test_bad_images_are_left_out(tmp_path):
    """All bad files are named, counted and recorded; a class left without a split is reported."""
    birds = archive.make(tmp_path / "birds")
    first, second, third, fourth, *_ = sorted((birds / "images").rglob("*.jpg"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-300])
    third.write_bytes(b"<!DOCTYPE html><title>404</title>")
    fourth.unlink()
    os.mkfifo(fourth)
    out = tmp_path / "cub"
    refused(build_as_command(birds, out), "4 of 24", first, second, third, fourth, "--skip-bad")
    done = build_as_command(birds, out, "--skip-bad")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    reasons = {entry["image"]: entry["reason"] for entry in manifest["skipped"]}
    bad = (first, second, third, fourth)
    names = [path.relative_to(birds / "images").as_posix() for path in bad]
    assert [*reasons] == names and "4 of 24" in done.stdout
    words = ("empty", "cut short", "neither JPEG", "not a plain file")
    assert all(word in reason for word, reason in zip(words, reasons.values())), reasons
    assert [manifest["splits"][split]["images"] for split in ("train", "test")] == [10, 10]
    assert "no train images left" in done.stdout and "no test images left" in done.stdout
    listed = (out / "train.tsv").read_text() + (out / "test.tsv").read_text()
    assert not any(name in listed for name in names)
    assert run("verify_lmdb.py", out).returncode == 0
    assert "nothing to do" in build_as_command(birds, out, "--skip-bad").stdout


def build_as_command(birds, out, *options):
    return run("build_lmdb.py", "cub", "--root", birds, "--partial", "--size", 32, "--out", out,
               *options)  # fmt: skip


def test_a_split_left_empty(tmp_path):
    birds = archive.make(tmp_path / "birds")
    for path in (birds / "images").rglob("bird_[02].jpg"):  # those of the test split
        path.write_bytes(b"")
    refused(build_as_command(birds, tmp_path / "cub", "--skip-bad"), "there are no test images")
    assert {path.name for path in tmp_path.iterdir()} == {"birds"}


def test_nothing_bad(birds, tmp_path):
    assert build(birds, tmp_path / "cub", "--skip-bad")["skipped"] == []


def test_margins(birds, tmp_path):
    """Half of the box 10, 5, 20, 30 on each side, as far as the image of 60 x 40 goes."""
    out = tmp_path / "cub"
    build(birds, out, "--bbox", "--context", "0.5", "--encoded", "png", "--order", "listed")
    listed = (out / "train.tsv").read_text().splitlines()[1:]
    for line, image in zip(listed, stored(out / "train_images"), strict=True):
        whole = cv2.imread(str(birds / "images" / line.split("\t")[1]))
        assert np.array_equal(image, images.resize(whole[0:40, 0:40], 32, "squeeze"))


@pytest.mark.parametrize("size, scale", [(100, 1), (50, 2), (16, 8)])
def test_boxes_and_footers_of_photographs_decoded_smaller(size, scale, tmp_path):
    """Red in the box, black around it, a white strip of 20 rows below: nothing else gets in."""
    image = np.zeros((420, 600, 3), np.uint8)
    image[250:, 160:320] = (0, 0, 255)
    image[400:] = 255
    path = tmp_path / "photograph.jpg"
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    with image_files.open_plain(path) as file:
        assert images.decode_scale(image_files.header(file), size, (0, 0, 160, 160)) == scale
    record = Record("photograph", path, 0, "train", (160, 250, 160, 170), 20)
    options = BuildOptions(size=size, resize="squeeze", encoded="raw")
    (result,) = pipeline.chunks([record], options, 1)
    assert result.images[0].reason is None
    away = np.abs(result.total - (0, 0, 255)).max(axis=2)  # of one image: its pixels
    assert away[1:-1, 1:-1].max() < 40 and away[-1, 1:-1].max() < 60, away.max()


@pytest.mark.parametrize("context", ["-0.1", "nan", "much"])
def test_margins_as_they_should_be(context, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_lmdb.main(["cub", "--root", ".", "--bbox", "--context", context])
    assert "--context" in capsys.readouterr().err


def test_margins_need_boxes(capsys):
    with pytest.raises(SystemExit, match="2"):
        build_lmdb.main(["cub", "--root", ".", "--context", "0.1"])
    assert "--bbox" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["cards", "--bbox"], r"--bbox: cards has no boxes to crop to; .*\(.*cub.*\)"),
        (["folder", "--root", ".", "--bbox"], "--bbox: folder has no boxes"),
        (["cards", "--bogus", "3"], "cards does not take --bogus 3: .*cards --help"),
    ],
)
def test_options_of_other_data_sets(argv, says):
    with pytest.raises(UserError, match=says):
        build_lmdb.main(argv)


def net(folder, levels):
    """A net of stock layers that classifies on every level of a data set."""
    heads = "".join(
        f"""
        layer {{ name: "fc{j}" type: "InnerProduct" bottom: "data" top: "fc{j}"
                 inner_product_param {{ num_output: {size} weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "loss{j}" type: "SoftmaxWithLoss" bottom: "fc{j}" bottom: "l{j}"
                 top: "loss{j}" }}"""
        for j, size in enumerate(levels)
    )
    tops = " ".join(f'top: "l{j}"' for j in range(len(levels)))
    return f"""
        layer {{ name: "d" type: "Data" top: "data" transform_param {{ scale: 0.004 crop_size: 28
                 mean_file: "{folder}/mean.binaryproto" }}
                 data_param {{ source: "{folder}/train_images" batch_size: 3 backend: LMDB }} }}
        layer {{ name: "l" type: "Data" top: "label"
                 data_param {{ source: "{folder}/train_labels" batch_size: 3 backend: LMDB }} }}
        layer {{ name: "s" type: "Slice" bottom: "label" {tops} slice_param {{ axis: 1 }} }}
        {heads}"""


def cars(root):
    return ["cars", "--root", str(test_cars.make(root)), "--partial"]


def aircraft(root):
    return ["aircraft", "--root", str(test_aircraft.make(root)), "--partial"]


def cub(root):
    return ["cub", "--root", str(archive.make(root)), "--partial"]


def folder(root):
    counts = {"a/b": 3, "a/c": 4, "d/e": 4}
    test_folder.photos(root, counts)
    return ["folder", "--root", str(root)]


def table(root):
    test_folder.photos(root, {"x": 4})
    rows = ["path,species,family,split"]
    for number, path in enumerate(sorted((root / "x").iterdir())):
        rows.append(f"x/{path.name},{'st'[number // 2]},f,{('train', 'test')[number % 2]}")
    (root / "t.csv").write_text("\n".join(rows) + "\n")
    return ["table", "--table", str(root / "t.csv"), "--levels", "species,family"]


@pytest.mark.parametrize("encoded", ["jpg", "raw"])
@pytest.mark.parametrize("source", [cub, cars, aircraft, folder, table])
def test_caffe_trains_a_step(source, encoded, tmp_path):
    """Stock Data and Slice layers, one step of SGD: images and labels of all levels arrive."""
    import caffe

    out = tmp_path / "built"
    command = source(tmp_path / "source")
    options = ("--size", "32", "--encoded", encoded, "--out", str(out), "--jobs", "1")
    build_lmdb.main([*command, *options])
    manifest = json.loads((out / "manifest.json").read_text())
    levels = [level["classes"] for level in manifest["levels"]]
    (tmp_path / "net.prototxt").write_text(net(out, levels))
    (tmp_path / "solver.prototxt").write_text(
        f'train_net: "{tmp_path}/net.prototxt" base_lr: 0.01 lr_policy: "fixed" '
        "snapshot_after_train: false random_seed: 1"
    )
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    before = solver.net.params["fc0"][0].data.copy()
    solver.step(1)
    assert not np.array_equal(solver.net.params["fc0"][0].data, before)
    listed = np.loadtxt(out / "train.tsv", dtype=str, delimiter="\t", skiprows=1)[:, 2:].astype(int)
    wanted = np.resize(listed, (3, len(levels)))
    for j in range(len(levels)):
        assert np.array_equal(solver.net.blobs[f"l{j}"].data.ravel(), wanted[:, j])
        assert 0 < solver.net.blobs[f"loss{j}"].data < 50 or levels[j] == 1


def test_caffe_reads_raw_pixels(birds, tmp_path):
    """Raw pixels equal PNG's, blue-green-red; the verifier accepts them only as not encoded."""
    import caffe

    blobs = {}
    for encoded in ("raw", "png"):
        out = tmp_path / encoded
        build(birds, out, "--encoded", encoded)
        path = tmp_path / f"{encoded}.prototxt"
        path.write_text(f"""
            layer {{ name: "d" type: "Data" top: "data" data_param {{ source: "{out}/train_images"
                     batch_size: 12 backend: LMDB }} }}""")
        data = caffe.Net(str(path), caffe.TEST)
        data.forward()
        blobs[encoded] = data.blobs["data"].data.copy()
    assert np.array_equal(blobs["raw"], blobs["png"])
    pixels = np.stack(stored(tmp_path / "png/train_images"))
    assert np.array_equal(blobs["png"], pixels.transpose(0, 3, 1, 2))
    assert run("verify_lmdb.py", tmp_path / "raw").returncode == 0
    manifest = tmp_path / "raw/manifest.json"
    manifest.write_text(manifest.read_text().replace('"encoded": "raw"', '"encoded": "png"'))
    refused(run("verify_lmdb.py", tmp_path / "raw"), "not marked as encoded")
