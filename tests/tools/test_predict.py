"""tools/predict.py: the scores of evaluate.py, every kind of file, every output format."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib

import caffe
import cv2
import numpy as np
import photo_set
import pytest
from commands import ROOT, assert_error, run
from stopped import stopped

from data_prep import image_files
from data_prep.common.errors import UserError
from tools import results, solver_net
from tools.recognition import answers, model as models, photographs, recognize, resumable, trained

SOURCES = {  # name: (suffix of the photographs, options of build_lmdb.py, boxes?)
    "png": (".png", ("--encoded", "png"), False),
    "raw": (".png", ("--encoded", "raw"), False),
    "shorter": (".png", ("--encoded", "raw", "--resize", "shorter"), False),
    "boxes": (".png", ("--encoded", "png"), True),
    "context": (".png", ("--encoded", "png", "--context", "0.1"), True),
    "from jpeg": (".jpg", ("--encoded", "png"), False),
    "to jpeg": (".png", ("--encoded", "jpg"), False),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_set.make(tmp_path_factory.mktemp("photos"), "--encoded", "png")


def evaluated(photos, batch):
    """{level: scores} of the test split, in the order of its records, as evaluate.py reads them."""
    scoring = solver_net.scoring_net(solver_net.read_solver(photos.solver), "test", batch)
    net = solver_net.load(scoring, photos.weights)
    found = {level: [] for level in scoring.heads}
    for _ in range(-(-len(photos.listed()) // batch)):
        net.forward()
        for level, blob in scoring.heads.items():
            found[level].append(net.blobs[blob].data.copy())
    return {level: np.concatenate(rows)[: len(photos.listed())] for level, rows in found.items()}


def predicted(photos, found, batch):
    """{level: scores} of photographs by the net that predict.py runs."""
    model, net = models.from_solver(photos.solver), trained.read(photos.solver)
    rows = {level: [] for level in net.scores}
    for part, bad in photographs.batches(found, model.preprocessing, 1, 2, batch):
        assert not bad
        blobs = model.engine.compute(part.blob, list(net.scores.values()))
        for level, name in net.scores.items():
            rows[level].append(blobs[name])
    return {level: np.concatenate(parts) for level, parts in rows.items()}


@pytest.mark.parametrize("source", SOURCES)
def test_scores_are_those_of_evaluation(tmp_path, source):
    """Bit for bit, unless the data set's images went through a JPEG."""
    suffix, options, boxed = SOURCES[source]
    photos = photo_set.make(tmp_path, *options, suffix=suffix, boxes=boxed)
    boxes = photo_set.draw(tmp_path / "same", suffix) if boxed else {}
    boxes = {path.relative_to(tmp_path / "same"): box for path, box in boxes.items()}
    found = [
        photographs.Photograph(str(path), path, boxes.get(path.relative_to(photos.photographs)))
        for _, path, _ in photos.listed()
    ]
    wanted, seen = evaluated(photos, 4), predicted(photos, found, 4)
    assert len(found) == 8 and set(seen) == set(wanted) == {0, 1}
    for level, scores in wanted.items():
        assert np.ptp(scores, axis=0).max() > 0.1  # the photographs differ
        if source == "to jpeg":
            np.testing.assert_allclose(seen[level], scores, atol=0.05 * np.ptp(scores))
            assert not np.array_equal(seen[level], scores)
        else:
            np.testing.assert_array_equal(seen[level], scores)


def test_command_agrees_with_evaluate(photos, tmp_path):
    done = run("evaluate", "--solver", photos.solver, "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    table = results.read_predictions(tmp_path / "r.json", results.read(tmp_path / "r.json"))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for _, path, _ in photos.listed()))
    args = ("--solver", photos.solver, "--list", tmp_path / "list.txt", "--decode", "own")
    done = run("predict", *args, "--out", tmp_path / "a.jsonl")
    assert done.returncode == 0 and str(tmp_path / "a.jsonl") in done.stdout, done.stderr
    tree = models.from_solver(photos.solver).hierarchy
    found = answers.read_lines(tmp_path / "a.jsonl")
    assert [answer.image for answer in found] == [str(path) for _, path, _ in photos.listed()]
    for j, level in enumerate(table.levels):
        numbers = [tree.names[j].index(answer.levels[j].predicted) for answer in found]
        assert numbers == level.predicted.tolist()
        shown = [answer.levels[j].probability for answer in found]
        np.testing.assert_allclose(shown, level.probability, atol=1.5e-6)


@pytest.mark.parametrize("transform", [dict(mean_value=[7]), dict(scale=0.5), dict(mean_value=[])])
def test_transformations_of_caffe(photos, tmp_path, transform):
    path, weights = photo_set.solver(tmp_path / "net", photos.data, **transform)
    other = photo_set.PhotoSet(tmp_path, photos.photographs, photos.data, path, weights)
    found = [photographs.Photograph(str(path), path) for _, path, _ in photos.listed()]
    for level, scores in evaluated(other, 4).items():
        np.testing.assert_array_equal(predicted(other, found, 4)[level], scores)


def test_mean_image(photos, tmp_path):
    mean = dict(mean_value=[], mean_file=str(photos.data / "mean.binaryproto"))
    path, weights = photo_set.solver(tmp_path / "net", photos.data, **mean)
    other = photo_set.PhotoSet(tmp_path, photos.photographs, photos.data, path, weights)
    found = [photographs.Photograph(str(path), path) for _, path, _ in photos.listed()]
    for level, scores in evaluated(other, 4).items():
        np.testing.assert_array_equal(predicted(other, found, 4)[level], scores)


@pytest.mark.parametrize("crops", [5, 10])
def test_crops_are_those_of_caffe(photos, crops):
    model = models.from_solver(photos.solver)
    pixels = photo_set.photograph(1, 32, 32)
    blob = model.preprocessing.blob(pixels, crops)
    each = caffe.io.oversample([pixels], (24, 24))[:crops]  # h x w x 3 each
    wanted = (each - np.array(photo_set.MEAN, np.float32)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(blob, wanted)
    alone = model.probabilities(blob)
    mean = model.probabilities(np.concatenate([blob, blob[::-1]]), crops)
    for level, rows in alone.items():
        np.testing.assert_allclose(mean[level], [rows.mean(axis=0)] * 2, rtol=1e-6)


def test_plain_softmax_has_one_classifier(photos, tmp_path):
    path, _ = photo_set.solver(tmp_path / "net", photos.data, stages=())
    done = run("predict", "--solver", path, "--json", photos.photographs)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 16
    for line in lines:
        kind, group = line["levels"]
        assert "agree" not in line and "probability" not in group and "own" not in group
        assert group["from_fine"] >= kind["probability"] == kind["from_fine"]
        assert group["predicted"] == dict(map(reversed, photo_set.KINDS))[kind["predicted"]]


# ---- files ----


def png_of_size(width, height):
    """A PNG file of a few bytes that claims a size."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


def test_folder_with_all_kinds_of_files(photos, tmp_path):
    folder = tmp_path / "holiday"
    (folder / "more" / ".hidden").mkdir(parents=True)
    good = cv2.imencode(".jpg", photo_set.photograph(1, 60, 80))[1].tobytes()
    for name in ("10.jpg", "9.jpg", "more/1.JPG", "no suffix"):
        (folder / name).write_bytes(good)
    (folder / "more" / ".hidden" / "2.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[:300])
    (folder / "huge.png").write_bytes(png_of_size(60_000, 60_000))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("not an image")
    os.mkfifo(folder / "pipe.jpg")
    done = run("predict", "--solver", photos.solver, "--tsv", folder)
    assert done.returncode == 1
    rows = [line.split("\t")[0] for line in done.stdout.splitlines()[1:]]
    names = ["9.jpg", "10.jpg", "no suffix", "more/1.JPG"]
    assert rows == [str(folder / name) for name in names]
    bad = {
        "cut.jpg": "cut short",
        "huge.png": "60000 x 60000 pixels",
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "pipe.jpg": "not a plain file",
    }
    for name, reason in bad.items():
        assert any(name in line and reason in line for line in done.stderr.splitlines()), name
    assert "left out 1 file that is not an image" in done.stderr and "notes.txt" in done.stderr
    assert "error: 5 of 9 files can't be used" in done.stderr


def test_order_and_batches_do_not_matter(photos, tmp_path):
    outputs = []
    for batch, jobs in ((1, 1), (3, 5), (32, 2)):
        args = ("--batch", batch, "--jobs", jobs, "--out", tmp_path / "a.tsv")
        assert run("predict", "--solver", photos.solver, photos.photographs, *args).returncode == 0
        outputs.append(answers.read_tsv(tmp_path / "a.tsv"))
    for header, rows in outputs[1:]:
        assert header == outputs[0][0] and len(rows) == 16
        for row, first in zip(rows, outputs[0][1]):
            for cell, other in zip(row, first):
                number = cell.replace(".", "").isdigit()
                assert abs(float(cell) - float(other)) < 2e-6 if number else cell == other


def test_list_with_boxes(photos, tmp_path):
    path = photos.listed()[0][1]
    rows = f"{path}\n{path}\t3,4,20,25\r\n\n"
    done = subprocess.run(
        [sys.executable, "tools/predict.py", "--solver", photos.solver, "--list", "-", "--json"],
        cwd=ROOT,
        input=rows,
        capture_output=True,
        text=True,
    )
    whole, part = map(json.loads, done.stdout.splitlines())
    boxed = run("predict", "--solver", photos.solver, "--box", "3,4,20,25", "--json", path)
    assert json.loads(boxed.stdout)["levels"] == part["levels"] != whole["levels"]
    (tmp_path / "l").write_text(f"{path}\t1,2,3\n")
    args = ("--solver", photos.solver, "--list", tmp_path / "l")
    assert_error(run("predict", *args), "l, line 1: '1,2,3' is not x,y,width,height")


def test_box_outside(photos):
    path = photos.listed()[0][1]
    done = run("predict", "--solver", photos.solver, "--box", "900,0,10,10", path)
    assert done.returncode == 1 and done.stdout == ""
    assert "lies outside the image" in done.stderr and "Traceback" not in done.stderr


def test_bytes_of_an_upload(photos):
    """What a server reads gives what the file gives."""
    prepared, (_, path, _) = models.from_solver(photos.solver).preprocessing, photos.listed()[1]
    box = (3, 4, 20, 25)
    found = photographs.Photograph("", path, box)
    ((_, wanted, reason),) = photographs.decoded([found], prepared, 5, 1)
    assert reason is None
    np.testing.assert_array_equal(photographs.blob_of(path.read_bytes(), prepared, box, 5), wanted)
    for data in (b"", b"text", png_of_size(60_000, 60_000), path.read_bytes()[:200]):
        with pytest.raises(image_files.ImageError):
            photographs.blob_of(data, prepared)


def test_footer(photos, tmp_path):
    image = photo_set.photograph(3, 60, 50)
    footed = np.concatenate([image, np.zeros((20, 50, 3), np.uint8)])
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), footed)
    plain, cut = (
        json.loads(run("predict", "--solver", photos.solver, "--json", tmp_path / n, *o).stdout)
        for n, o in (("a.png", ()), ("b.png", ("--footer", 20)))
    )
    assert plain["levels"] == cut["levels"]


def test_names_in_natural_order(tmp_path):
    names = ["10.jpg", "9.jpg", "a2b10.jpg", "a2b9.jpg", "a10.jpg", "007.jpg", "7.jpg", "²3.jpg"]
    names.append("9" * 5000)
    ordered = sorted(names, key=photographs.natural)
    assert ordered.index("9.jpg") < ordered.index("10.jpg") < ordered.index("9" * 5000)
    assert ordered.index("a2b9.jpg") < ordered.index("a2b10.jpg") < ordered.index("a10.jpg")
    assert sorted(reversed(names), key=photographs.natural) == ordered


# ---- outputs ----


def test_formats_say_the_same(photos, tmp_path):
    model = models.from_solver(photos.solver)
    found = photographs.find([photos.photographs])
    wanted = [
        answer
        for part, _ in recognize.stream(model, found, rule="risk", top=2, batch=5)
        for answer in part
    ]
    for name in ("a.jsonl", "a.tsv", "a.txt"):
        args = ("--decode", "risk", "--top", 2, "--batch", 5, "--out", tmp_path / name)
        done = run("predict", "--solver", photos.solver, photos.photographs, *args)
        assert done.returncode == 0, done.stderr
    lines = answers.read_lines(tmp_path / "a.jsonl")
    header, rows = answers.read_tsv(tmp_path / "a.tsv")
    text = (tmp_path / "a.txt").read_text()
    assert len(lines) == len(rows) == len(wanted) == 16
    for answer, line, row in zip(wanted, lines, rows):
        cells = dict(zip(header, row))
        assert line.image == answer.image == cells["image"] and f"\n{answer.image}\n" in text
        assert line.agree == answer.agree == (cells["agree"] == "yes")
        for level, other in zip(answer.levels, line.levels):
            assert (level.predicted, level.own) == (other.predicted, other.own)
            assert other.probability == pytest.approx(level.probability, abs=1e-7)
            assert cells[f"{level.level}_predicted"] == level.predicted
            assert float(cells[f"{level.level}_from_fine"]) == pytest.approx(
                level.from_fine, abs=1e-6
            )
        for number, (each, other) in enumerate(zip(answer.best, line.best), 1):
            assert each.path == other.path and cells[f"best.{number}"] == each.path[0]
            assert other.distance == pytest.approx(each.distance, abs=1e-7)
            assert other.joint == pytest.approx(each.joint, abs=1e-7)
        assert f"{answer.levels[0].probability:.1%}" in text


def test_strange_names(photos, tmp_path):
    data = photos.listed()[0][1].read_bytes()
    folder = tmp_path / "strange"
    folder.mkdir()
    names = [b"tab\there.png", b"line\nbreak.png", b"back\\slash\\n.png", "Möwe 鷗.png".encode()]
    names.append(b"not utf-8 \xff.png")
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(data)
    for suffix in ("tsv", "jsonl", "txt"):
        out = tmp_path / f"a.{suffix}"
        done = run("predict", "--solver", photos.solver, folder, "--out", out)
        assert done.returncode == 0, done.stderr
    found = {os.path.basename(os.fsencode(one.image)) for one in answers.read_lines(
        tmp_path / "a.jsonl"
    )}  # fmt: skip
    assert found == set(names)
    _, rows = answers.read_tsv(tmp_path / "a.tsv")
    seen = {os.path.basename(row[0]) for row in rows}
    assert {name.decode() for name in names[:4]} < seen and "not utf-8 \\udcff.png" in seen
    assert run("predict", "--solver", photos.solver, folder).returncode == 0


def test_same_bytes_again(photos, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        args = ("--crops", 10, "--jobs", len(name), "--out", tmp_path / name)
        done = run("predict", "--solver", photos.solver, photos.photographs, *args, fresh=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize(
    "name, text",
    [("a.tsv", "species\tcount\n"), ("a.jsonl", '{"image": "x", "boxes": []}\n'), ("a.txt", "")],
)
def test_foreign_files_are_kept(photos, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    args = ("--solver", photos.solver, photos.listed()[0][1], "--out")
    assert_error(run("predict", *args, tmp_path / name), f"{name} exists")
    assert (tmp_path / name).read_text() == text
    for _ in range(2):  # an earlier answer may be replaced
        assert run("predict", *args, tmp_path / f"b{name[1:]}").returncode == 0


def test_interrupted(photos, tmp_path):
    """Ctrl-C ends it with the old file in place; the same command resumes to the same bytes."""
    paths, out = [path for _, path, _ in photos.listed()], tmp_path / "a.jsonl"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    lines = "".join(f"{path}\n" for path in [bad, *paths] * 40)
    (tmp_path / "list.txt").write_text(lines)
    args = ("--solver", photos.solver, "--list", tmp_path / "list.txt", "--top", 1)
    assert run("predict", *args, "--out", out).returncode == 1
    whole = out.read_bytes()
    assert whole.count(b"\n") == 320
    out.write_bytes(whole[: whole.index(b"\n") + 1])  # an earlier answer
    command = ("tools/predict.py", *args, "--out", out)
    ended = stopped(command, "tools.recognition.resumable:Parts.add", 5, signal.SIGINT)
    assert ended.returncode == 130 and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stderr.endswith("run the same command to resume\ninterrupted\n"), ended.stderr
    assert out.read_bytes().count(b"\n") == 1
    with open(resumable.partial_of(out), "ab") as file:
        file.write(b'{"text": "a cut li')
    done = run("predict", *args, "--out", out)
    assert done.returncode == 1 and "error: 40 of 360" in done.stderr
    resumed = re.search(r"resuming at (\d+) of 360", done.stdout)
    assert 0 < int(resumed[1]) < 360
    assert out.read_bytes() == whole
    assert {one.name for one in tmp_path.iterdir()} == {"a.jsonl", "list.txt", "bad.png"}


def test_other_settings_start_over(photos, tmp_path):
    path, out = photos.listed()[0][1], tmp_path / "a.jsonl"
    with pytest.raises(ValueError):
        with resumable.parts(out, {"a": 1}) as kept:
            kept.add({"text": "x"})
            raise ValueError
    with resumable.parts(out, {"a": 1}) as kept:
        assert kept.earlier == [{"text": "x"}]
        with pytest.raises(UserError, match="another process"):
            with resumable.parts(out, {"a": 1}):
                pass
    assert not resumable.partial_of(out).exists()
    with pytest.raises(ValueError):
        with resumable.parts(out, {"a": 1}) as kept:
            kept.add({"text": "x"})
            raise ValueError
    assert run("predict", "--solver", photos.solver, path, "--out", out).returncode == 0
    assert len(answers.read_lines(out)) == 1
    resumable.partial_of(out).write_text("mine\n")
    done = run("predict", "--solver", photos.solver, path, "--out", out)
    assert_error(done, ".a.jsonl.partial exists")
    assert resumable.partial_of(out).read_text() == "mine\n"


# ---- refusals ----


@pytest.mark.parametrize(
    "args, says",
    [
        (["nowhere.jpg"], "nowhere.jpg not found"),
        (["tests/tools"], "tests/tools has no images"),
        (["--engine", "onnx", "x.jpg"], "tools/export.py"),
        (["--gpu", "99", "PHOTO"], "GPU 99 can't be used"),
        (["--weights", "nowhere.caffemodel", "PHOTO"], "nowhere.caffemodel"),
    ],
)
def test_refusals(photos, args, says):
    path = str(photos.listed()[0][1])
    args = [path if word in ("PHOTO", "x.jpg") else word for word in args]
    assert_error(run("predict", "--solver", photos.solver, *args), says)


def test_data_set_is_missing(photos, tmp_path):
    path, _ = photo_set.solver(tmp_path / "net", photos.data)
    text = (tmp_path / "net" / "photo_train_val.prototxt").read_text()
    (tmp_path / "net" / "photo_train_val.prototxt").write_text(
        text.replace(str(photos.data), f"{tmp_path}/gone")
    )
    done = run("predict", "--solver", path, photos.listed()[0][1])
    assert_error(done, "manifest.json not found")


def test_net_of_another_data_set(photos, tmp_path):
    path, _ = photo_set.solver(tmp_path / "net", photos.data)
    other = tmp_path / "data"
    other.mkdir()
    (other / "manifest.json").write_bytes((photos.data / "manifest.json").read_bytes())
    lines = (photos.data / "hierarchy.tsv").read_text().splitlines()
    (other / "hierarchy.tsv").write_text("\n".join(lines[:-1]) + "\n")
    text = (tmp_path / "net" / "photo_train_val.prototxt").read_text()
    (tmp_path / "net" / "photo_train_val.prototxt").write_text(
        text.replace(str(photos.data), str(other))
    )
    done = run("predict", "--solver", path, photos.listed()[0][1])
    assert_error(done, "4 classes")


def test_diverged_weights(photos, tmp_path):
    path, weights = photo_set.solver(tmp_path / "net", photos.data)
    scoring = solver_net.scoring_net(solver_net.read_solver(path), "test", 1)
    net = solver_net.load(scoring, weights)
    net.params["conv"][0].data[...] = np.nan
    net.save(str(weights))
    done = run("predict", "--solver", path, photos.listed()[0][1])
    assert_error(done, "not finite")


def test_preprocessing_that_no_photograph_fits(photos, tmp_path):
    for transform, says in (
        (dict(crop_size=64), "takes 64 x 64 pixels"),
        (dict(force_gray=True), "reads gray images"),
    ):
        text = str(photo_set.net(photos.data, **transform))
        (tmp_path / "net.prototxt").write_text(text)
        solver = tmp_path / "solver.prototxt"
        solver.write_text(
            f'net: "{tmp_path}/net.prototxt" snapshot_prefix: "{photos.solver.parent}/model"'
        )
        with pytest.raises(UserError, match=says):
            trained.read(solver)
