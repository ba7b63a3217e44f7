"""build_lmdb.py table: a user's own photographs listed in a CSV or TSV file."""

import os

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import build_lmdb, lmdb_io
from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy
from data_prep.verify_lmdb import verify

HEADER = "path,species,family,split,x,y,w,h"
ROWS = (  # lines 2 to 7
    "a/1.jpg,Tern,Gulls,train,10,5,20,30",
    "a/2.jpg,Tern,Gulls,test,10,5,20,30",
    'b/1.jpg,"Owl, barn",Owls,train,10,5,20,30',
    'b/2.jpg,"Owl, barn",Owls,test,10,5,20,30',
    "c/1.jpg,Gull,Gulls,train,10,5,20.0,30",
    "c/2.jpg,Gull,Gulls,train,10,5,20,90",
)


def photo(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(number).integers(0, 100, (40, 60, 3), np.uint8)
    image[5:35, 10:30] = 240 - number  # no two images alike
    image[35:, 10:30] = 240 - number
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture
def table(tmp_path):
    for number, row in enumerate(ROWS):
        photo(tmp_path / "photos" / row.split(",")[0], number)
    path = tmp_path / "photos/images.csv"
    path.write_text("\n".join((HEADER, *ROWS)) + "\n", encoding="utf-8")
    return path


def build(table, out, *options):
    """Build in this process; the manifest."""
    common = ("--out", str(out), "--size", "16", "--jobs", "1", "--encoded", "png")
    build_lmdb.main(["table", "--table", str(table), *common, *options])
    found, manifest = verify(out)
    assert not found.problems
    return manifest


def listed(out):
    """{image: (split, labels)} of a built data set."""
    rows = {}
    for split in ("train", "test"):
        for line in (out / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            _, image, *labels = line.split("\t")
            rows[image] = split, *map(int, labels)
    return rows


EXPECTED = {
    "a/1.jpg": ("train", 2, 0),
    "a/2.jpg": ("test", 2, 0),
    "b/1.jpg": ("train", 1, 1),
    "b/2.jpg": ("test", 1, 1),
    "c/1.jpg": ("train", 0, 0),
    "c/2.jpg": ("train", 0, 0),
}


def test_the_command(table, tmp_path):
    done = run("build_lmdb.py", "table", "--table", table, "--size", 16, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/images"  # the default: data/<name of the table>
    assert run("verify_lmdb.py", out).returncode == 0
    tree = Hierarchy.read(out / "hierarchy.tsv")
    assert tree.levels == ("species", "family")
    assert tree.names == (("Gull", "Owl, barn", "Tern"), ("Gulls", "Owls"))  # sorted by name
    assert tree.labels.tolist() == [[0, 0], [1, 1], [2, 0]]
    assert listed(out) == EXPECTED
    done = run("build_lmdb.py", "table", "--table", table, "--size", 16, cwd=tmp_path)
    assert "up to date" in done.stdout
    table.write_text(table.read_text().replace("Gull,Gulls", "Skua,Gulls"))
    done = run("build_lmdb.py", "table", "--table", table, "--size", 16, cwd=tmp_path)
    assert "wrote" in done.stdout
    assert "Skua" in (out / "hierarchy.tsv").read_text()


def test_boxes(table, tmp_path):
    """Cropped to the box and to the image; without --bbox the cells are not even read."""
    manifest = build(table, tmp_path / "mine", "--bbox")
    assert manifest["name"] == "mine" and manifest["options"]["bbox"]
    for _, value in lmdb_io.items(tmp_path / "mine/train_images"):
        data = np.frombuffer(lmdb_io.parse_datum(value).data, np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).min() > 200
    table.write_text(table.read_text().replace("10,5,20,30", ",,,"))
    build(table, tmp_path / "whole")
    assert listed(tmp_path / "whole") == EXPECTED


def test_root_tabs_order_of_columns_and_rows(table, tmp_path):
    """A table elsewhere, as a spreadsheet writes it: a mark in front, CRLF, blanks, empty lines."""
    lines = ["split\tspecies\tfamily\tpath"]
    for image, (split, species, family) in reversed(EXPECTED.items()):
        name = ("Gull", '"Owl, barn"', "Tern")[species]
        lines.append(f"{split} \t{name}\t{('Gulls', 'Owls')[family]}\t./{image}")
    lines.insert(3, "\t\t\t")
    other = tmp_path / "lists/birds.TSV"
    other.parent.mkdir()
    other.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    build(other, tmp_path / "mine", "--root", str(table.parent))
    assert listed(tmp_path / "mine") == EXPECTED


def test_one_level_and_names_of_any_kind(table, tmp_path):
    table.write_text(
        "path,Art,split\na/1.jpg,F/A-18 'Müwe',train\na/2.jpg,#1,train\nb/1.jpg,#1,test\n",
        encoding="utf-8",
    )
    manifest = build(table, tmp_path / "mine")
    assert manifest["levels"] == [{"name": "Art", "classes": 2}]
    tree = Hierarchy.read(tmp_path / "mine/hierarchy.tsv")
    assert tree.names == (("#1", "F/A-18 'Müwe'"),)


def _put(old, new):
    def change(table):
        text = table.read_text()
        assert old in text
        table.write_text(text.replace(old, new, 1))

    return change


def _all(text):
    return lambda table: table.write_text(text)


def _bytes(table):
    table.write_bytes(HEADER.encode() + b"\na/1.jpg,\xff,Gulls,train,1,1,1,1\n")


def _no_test(table):
    table.write_text(table.read_text().replace("test", "train"))


def _gone(table):
    (table.parent / "c/1.jpg").unlink()
    (table.parent / "c/2.jpg").unlink()


def _link_out(table):
    photo(table.parent.parent / "elsewhere.jpg", 9)
    (table.parent / "a/1.jpg").unlink()
    (table.parent / "a/1.jpg").symlink_to(table.parent.parent / "elsewhere.jpg")


def _link_to_itself(table):
    (table.parent / "a/1.jpg").unlink()
    (table.parent / "a/1.jpg").symlink_to(table.parent / "a/1.jpg")


def _pipe(table):
    (table.parent / "a/1.jpg").unlink()
    os.mkfifo(table.parent / "a/1.jpg")


def _broken(table):
    (table.parent / "b/2.jpg").write_bytes(b"no photograph")


def _nothing(table):
    pass


B = ("--bbox",)


@pytest.mark.parametrize(
    "change, options, words",
    [
        (_nothing, ("--root", "nowhere"), ("nowhere is no folder", "--root")),
        (_nothing, ("--table", "none.csv"), ("none.csv: No such file", "--table")),
        (_nothing, ("--table", "images.xlsx"), ("images.xlsx must be named .csv",)),
        (_nothing, ("--out", "data/cars"), ("cars is the name of a published", "--out")),
        (_bytes, (), ("images.csv is not UTF-8",)),
        (_all(""), (), ("lists no images",)),
        (_all(HEADER), (), ("lists no images",)),
        (_put("family", "species"), (), ("line 1", "the column species twice")),
        (_put("family", ""), (), ("line 1", "a column without a name")),
        (_put("family", "common name"), (), ("line 1", "'common name'")),
        (_put(HEADER, HEADER.replace(",", ";")), (), ("line 1", "commas")),
        (_put("path", "file"), (), ("line 1", "no column path")),
        (_put("split", "fold"), (), ("line 1", "no column split")),
        (_put(",h", ",height"), (), ("no column h", "x, y, w, h")),
        (_all("path,split\na/1.jpg,train\n"), (), ("no column of a level",)),
        (_all("path,a,split\na/1.jpg,p,train\na/2.jpg,q,test\n"), B, ("no column x",)),
        (_all("path,a,split\na/1.jpg,p,train\na/2.jpg,p,test\n"), (), ("one a only, p",)),
        (_put("Gull,Gulls", "Gull"), (), ("line 6", "7 values", "8 columns")),
        (_put('"Owl, barn"', '"Owl" barn'), (), ("line 4", "expected")),
        (_put("Tern,Gulls,test", "Tern,,test"), (), ("line 3: the cell of family is empty",)),
        (_put("Tern", "Te\trn"), (), ("line 2", "Te\\trn", "control characters")),
        (
            _put("Tern,Gulls,test", "Tern,Owls,test"),
            (),
            ("line 3: the species Tern has two parents", "Owls", "line 2, Gulls"),
        ),
        (_put("train", "val"), (), ("line 2: the split is 'val'", "train nor test")),
        (_put("train", "Train"), (), ("line 2: the split is 'Train'",)),
        (_put("a/2.jpg", "a//./1.jpg"), (), ("line 3", "a//./1.jpg is listed in line 2")),
        (_put("a/2.jpg", "../elsewhere.jpg"), (), ("line 3: ../elsewhere.jpg leads out",)),
        (_put("a/2.jpg", "/etc/passwd"), (), ("line 3: /etc/passwd leads out",)),
        (_put("a/2.jpg", "x" * 300), (), ("line 3: there is no file",)),
        (_put("a/2.jpg", "a"), (), ("line 3", "photos/a is no plain file")),
        (_link_out, (), ("line 2: a/1.jpg leads out",)),
        (_link_to_itself, (), ("line 2: a/1.jpg in", "leads to itself")),
        (_pipe, (), ("line 2", "a/1.jpg is no plain file")),
        (_gone, (), ("line 6: there is no file", "c/1.jpg (and 1 more of 6)", "--root")),
        (_broken, (), ("1 of 6 images", "b/2.jpg: not an image")),
        (_no_test, (), ("images.csv has no test images",)),
        (
            _put('barn",Owls,train', 'barn",Owls,test'),
            (),
            ("line 4: 1 of the classes have no training images: Owl, barn",),
        ),
        (_put("10,5,20,30", "10,5,wide,30"), B, ("line 2: w is 'wide', no number",)),
        (_put("10,5,20,30", "10,5,,30"), B, ("line 2: w is '', no number",)),
        (_put("10,5,20,30", "10,nan,20,30"), B, ("line 2: the box 10, nan, 20, 30",)),
        (_put("10,5,20,30", "-1,5,20,30"), B, ("line 2: the box -1, 5",)),
        (_put("10,5,20,30", "10,5,20,0"), B, ("line 2: the box 10, 5, 20, 0",)),
        (_put("10,5,20,30", "60,5,20,30"), B, ("a/1.jpg", "outside the image")),
    ],
)
def test_refused(table, tmp_path, monkeypatch, change, options, words):
    monkeypatch.chdir(tmp_path)
    change(table)
    with pytest.raises(UserError) as error:
        build(table, tmp_path / "mine", *options)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "mine").exists()


def test_refused_as_a_command(table, tmp_path):
    _put("train", "learn")(table)
    done = run("build_lmdb.py", "table", "--table", table, "--out", tmp_path / "mine")
    refused(done, table, "line 2", "'learn'")
