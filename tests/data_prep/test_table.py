"""build_lmdb.py table: a user's own photographs listed in a CSV or TSV file."""

import json
import os

import cv2
import numpy as np
import pytest
from archive import refused, run

from data_prep import build_lmdb, lmdb_io
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
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
    found, _ = verify(out)
    assert not found.problems
    return json.loads((out / "manifest.json").read_text())


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
        (_nothing, ("--root", "nowhere"), ("nowhere is not a folder", "--root")),
        (_nothing, ("--table", "none.csv"), ("none.csv not found")),
        (_nothing, ("--table", "images.xlsx"), ("images.xlsx must be named .csv",)),
        (_nothing, ("--out", "data/cars"), ("cars is the name of a published", "--out")),
        (_bytes, (), ("images.csv is not UTF-8",)),
        (_all(""), (), ("lists no images",)),
        (_all(HEADER), (), ("lists no images",)),
        (_put("family", "species"), (), ("line 1", "the column species twice")),
        (_put("family", ""), (), ("the column '' has no name", "--levels species leaves")),
        (_put("family", "common name"), (), ("line 1", "'common name'")),
        (_put(HEADER, HEADER.replace(",", ";")), (), ("line 1", "commas")),
        (_put("path", "file"), (), ("line 1", "no column path")),
        (_put("split", "fold"), (), ("line 1", "no column split")),
        (_put(",h", ",height"), (), ("no column h", "x, y, w, h")),
        (_all("path,split\na/1.jpg,train\n"), (), ("no column for a level",)),
        (_all("path,a,split\na/1.jpg,p,train\na/2.jpg,q,test\n"), B, ("no column x",)),
        (_all("path,a,split\na/1.jpg,p,train\na/2.jpg,p,test\n"), (), ("only one a, p",)),
        (_put("Gull,Gulls", "Gull"), (), ("line 6", "7 values", "8 columns")),
        (_put('"Owl, barn"', '"Owl" barn'), (), ("line 4", "expected")),
        (_put("Tern,Gulls,test", "Tern,,test"), (), ("line 3: the cell of family is empty",)),
        (_put("Tern", "Te\trn"), (), ("line 2", "Te\\trn", "invisible characters")),
        (
            _put("Tern,Gulls,test", "Tern,Owls,test"),
            (),
            ("line 3: the species Tern has two parents", "Owls", "line 2, Gulls"),
        ),
        (_put("train", "val"), (), ("line 2: 1 of the classes have no training images: Tern",)),
        (_put("train", "1"), (), ("line 2: the split is '1', not train, val or test",)),
        (_put("a/2.jpg", "a//./1.jpg"), (), ("line 3", "a//./1.jpg is already listed in line 2")),
        (_put("a/2.jpg", "../elsewhere.jpg"), (), ("line 3: ../elsewhere.jpg leads out",)),
        (_put("a/2.jpg", "/etc/passwd"), (), ("line 3: /etc/passwd leads out",)),
        (_put("a/2.jpg", "x" * 300), (), ("line 3: no file",)),
        (_put("a/2.jpg", "a"), (), ("line 3", "photos/a is not a plain file")),
        (_link_out, (), ("line 2: a/1.jpg leads out",)),
        (_link_to_itself, (), ("line 2: a/1.jpg in", "leads to itself")),
        (_pipe, (), ("line 2", "a/1.jpg is not a plain file")),
        (_gone, (), ("line 6: no file", "c/1.jpg (and 1 more of 6)", "--root")),
        (_broken, (), ("1 of 6 images", "b/2.jpg (", "line 5): not an image")),
        (_no_test, (), ("images.csv has no test images",)),
        (
            _put('barn",Owls,train', 'barn",Owls,test'),
            (),
            ("line 4: 1 of the classes have no training images: Owl, barn",),
        ),
        (_put("10,5,20,30", "10,5,wide,30"), B, ("line 2: w is 'wide', not a number",)),
        (_put("10,5,20,30", "10,5,,30"), B, ("line 2: w is '', not a number",)),
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


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tree(out):
    return Hierarchy.read(out / "hierarchy.tsv")


def test_kaggles_cars(tmp_path):
    """Its columns as they are: a counter without a name, corners, numbers of classes, no split."""
    lines = [",x1,y1,x2,y2,Class,image"]
    for number in range(8):
        photo(tmp_path / f"cars_train/0000{number}.jpg", number)
        lines.append(f"{number},10,5,30,35,{number % 2 + 10},0000{number}.jpg")
    csv = write(tmp_path / "cardatasettrain.csv", *lines)
    given = ("--root", str(tmp_path / "cars_train"), "--column", "path=image")
    wanted = (*given, "--levels", "Class", "--boxes", "corners", "--bbox", "--test-share", "0.25")
    manifest = build(csv, tmp_path / "mine", *wanted)
    assert [entry["images"] for entry in manifest["splits"].values()] == [6, 2]
    assert tree(tmp_path / "mine").names == (("10", "11"),)
    for _, value in lmdb_io.items(tmp_path / "mine/train_images"):
        assert lmdb_io.datum_image(lmdb_io.parse_datum(value)).min() > 200
    for lacking, says in (
        (("--levels", "Class"), "the column '' has no name"),
        (("--test-share", "0.25"), "no column split: --column split=NAME"),
        (("--boxes", "corners"), "--boxes corners"),
        (("--column", "path=image"), "no column path: --column path=NAME"),
    ):
        rest, skipped = [], len(lacking)
        position = wanted.index(lacking[0])
        rest = wanted[:position] + wanted[position + skipped :]
        with pytest.raises(UserError) as error:
            build(csv, tmp_path / "other", *rest)
        assert says in str(error.value)


HEADER_OF_CARS = "path,x1,y1,x2,y2,model"


def test_cars_by_classes(tmp_path):
    """Tables without a header, one per split, of photographs in folders of the splits."""
    tables = []
    for split, start in (("train", 0), ("test", 4)):
        lines = []
        for number in range(start, start + 4):
            photo(tmp_path / f"cars_{split}/0000{number}.jpg", number)
            lines.append(f"0000{number}.jpg,10,5,30,35,{number % 2 + 10}")
        tables.append(f"{split}={write(tmp_path / f'anno_{split}.csv', *lines)}")
    manifest = build(
        tables[0],
        tmp_path / "mine",
        *("--table", tables[1], "--header", HEADER_OF_CARS),
        *("--path", "cars_{split}/{path}", "--root", str(tmp_path)),
    )
    assert [entry["images"] for entry in manifest["splits"].values()] == [4, 4]
    assert "cars_test/00004.jpg" in listed(tmp_path / "mine")
    with pytest.raises(UserError, match="give a split"):
        build(
            tables[0],
            tmp_path / "x",
            "--table",
            tables[1].partition("=")[2],
            "--header",
            HEADER_OF_CARS,
        )


@pytest.mark.parametrize(
    "cells, option",
    [
        ({"train": "0", "test": "1"}, "split=is_test"),
        ({"train": "TRUE", "test": "False"}, "split=train"),
        ({"train": "Training", "test": "testing"}, "split=fold"),
    ],
)
def test_columns_of_splits(table, tmp_path, cells, option):
    header, _, rows = table.read_text().partition("\n")
    for split, cell in cells.items():
        rows = rows.replace(f",{split},", f",{cell},")
    table.write_text(header.replace("split", option.partition("=")[2]) + "\n" + rows)
    build(table, tmp_path / "mine", "--column", option)
    assert listed(tmp_path / "mine") == EXPECTED


def test_a_val_split(table, tmp_path):
    table.write_text(table.read_text().replace("a/2.jpg,Tern,Gulls,test", "a/2.jpg,Tern,Gulls,val"))
    manifest = build(table, tmp_path / "mine")
    assert {name: entry["images"] for name, entry in manifest["splits"].items()} == dict(
        train=4, val=1, test=1
    )


def test_absolute_paths_in_the_root(table, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(table.parent)
    text = table.read_text().replace("a/1.jpg", str(table.parent / "a/1.jpg"))
    table.write_text(text.replace("a/2.jpg", str(link / "a/2.jpg")))
    build(table, tmp_path / "mine", "--root", str(link))
    assert listed(tmp_path / "mine") == EXPECTED


FURTHER = {  # a further column, and what is said of it
    "width": (["60", "61", "60", "62", "60.5", "61"], "has numbers only"),
    "photographer": (["Ann", "Ann", "Bob", "Bob", "Ann", "Bob"], "has two parents"),
    "set": (["birds"] * 6, "one value only, 'birds'"),
    "remark": (["a", "b", "c", "d", "e", "f"], "another value in each row"),
    "id": (["", "", "", "", "", ""], "one value only, ''"),
    "notes": (["", "x", "x", "x", "x", "x"], "the cell of notes is empty"),
}


@pytest.mark.parametrize("column", FURTHER)
def test_columns_that_are_no_levels(table, tmp_path, column):
    cells, says = FURTHER[column]
    lines = table.read_text().splitlines()
    lines = [f"{line},{cell}" for line, cell in zip(lines, [column, *cells])]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as error:
        build(table, tmp_path / "mine")
    assert says in str(error.value) and "--levels species,family" in str(error.value)
    manifest = build(table, tmp_path / "mine", "--levels", "species,family")
    assert [level["name"] for level in manifest["levels"]] == ["species", "family"]
    assert listed(tmp_path / "mine") == EXPECTED


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_column_that_is_no_level_anywhere(table, tmp_path, place):
    """The command that is named leaves out the right one of two columns."""
    lines = [
        line.replace('"Owl, barn"', "Owl").split(",") for line in table.read_text().splitlines()
    ]
    for line, cell in zip(lines, ["photographer", *FURTHER["photographer"][0]]):
        line.insert(place, cell)
    table.write_text("".join(",".join(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="has two parents.*--levels species,family, if photograph"):
        build(table, tmp_path / "mine")


@pytest.mark.parametrize("form", ["relative", "relative-corners", "corners"])
def test_forms_of_boxes(table, tmp_path, form):
    """The box 10, 5, 20, 30 of photographs of 60 x 40, also of one that is stored turned."""
    scale = (60, 40, 60, 40) if "relative" in form else (1, 1, 1, 1)
    edges = (10, 5, 30, 35) if "corners" in form else (10, 5, 20, 30)
    cells = ",".join(f"{edge / side:.6f}" for edge, side in zip(edges, scale))
    text = table.read_text()
    for old in ("10,5,20,30", "10,5,20.0,30", "10,5,20,90"):
        text = text.replace(old, cells)
    if "corners" in form:
        text = text.replace("x,y,w,h", "x1,y1,x2,y2")
    table.write_text(text)
    turned = cv2.rotate(cv2.imread(str(table.parent / "a/1.jpg")), cv2.ROTATE_90_COUNTERCLOCKWISE)
    jpeg = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (table.parent / "a/1.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    build(table, tmp_path / "mine", "--bbox", "--boxes", form)
    for _, value in lmdb_io.items(tmp_path / "mine/train_images"):
        assert lmdb_io.datum_image(lmdb_io.parse_datum(value)).min() > 200


@pytest.mark.parametrize(
    "cells, options, words",
    [
        ("0.1,0.2,0.5,0.5", (), ("all boxes lie in 0 to 1", "--boxes relative")),
        ("10,5,2,30", (), ("a/1.jpg", "line 2", "2 x 30 pixels")),
        ("0.5,0.5,0.6,0.2", ("--boxes", "relative"), ("line 2", "reaches beyond", "the center")),
        ("10,5,20,30", ("--boxes", "relative"), ("line 2", "reaches beyond")),
        (
            "0.5,0.5,0.01,0.01",
            ("--boxes", "relative"),
            ("a/1.jpg", "line 2", "pixels of the image"),
        ),
        ("9" * 5000 + ",1,1,1", (), ("line 2", "has a number of")),
        ("10,5,20,30", ("--boxes", "corners"), ("no column x1", "--column x1=NAME")),
    ],
)
def test_boxes_that_cannot_be_right(table, tmp_path, cells, options, words):
    text = table.read_text()
    for old in ("10,5,20,30", "10,5,20.0,30", "10,5,20,90"):
        text = text.replace(old, cells)
    table.write_text(text)
    with pytest.raises(UserError) as error:
        build(table, tmp_path / "mine", "--bbox", *options)
    for word in words:
        assert word in str(error.value)


def test_one_tiny_box_and_corners_that_are_sides(table, tmp_path):
    text = table.read_text()
    table.write_text(text.replace("10,5,20,90", "10,5,1,1"))
    with pytest.raises(
        UserError, match=r"c/2.jpg \(.*, line 7\): the box .* covers only 1 x 1 pixels"
    ):
        build(table, tmp_path / "mine", "--bbox")
    table.write_text(text.replace("x,y,w,h", "x1,y1,x2,y2").replace("10,5,20.0", "30,5,20.0"))
    with pytest.raises(UserError, match="line 6: the box 30, 5, 20.0, 30 is not x1, y1 from 0"):
        build(table, tmp_path / "mine", "--bbox", "--boxes", "corners")


LOOK_ALIKES = ["Éider", "E\u0301ider", " Éider", "Éider\u00a0", "\u2003Éider "]


@pytest.mark.parametrize("other", LOOK_ALIKES, ids=ascii)
def test_names_that_look_the_same(table, tmp_path, other):
    """One class, by the same rule in tables, folders and label trees."""
    text = table.read_text().replace('"Owl, barn"', "Éider  nord", 1)
    table.write_text(text.replace('"Owl, barn"', f'"{other}\u2003nord"'), encoding="utf-8")
    build(table, tmp_path / "mine")
    assert tree(tmp_path / "mine").names[0] == ("Gull", "Tern", "Éider nord")
    file = write(tmp_path / "tree.tsv", "a\tb", f"{other}\tx", "y\tÉ  x", "z\tE\u0301 x")
    assert Hierarchy.read(file).names == (("Éider", "y", "z"), ("x", "É x"))


def test_names_that_differ_in_case(table, tmp_path, capsys):
    table.write_text(table.read_text().replace("Skua", "").replace("c/2.jpg,Gull", "c/2.jpg,GULL"))
    build(table, tmp_path / "mine")
    said = capsys.readouterr().out
    assert "warning: species: 'GULL' and 'Gull' are different classes" in said


@pytest.mark.parametrize("name", ["key", "image", "sp_predicted", "x_probability", "taxon_id"])
def test_levels_that_are_columns_of_results(table, tmp_path, name):
    table.write_text(table.read_text().replace("species", name, 1))
    with pytest.raises(UserError, match=f"{name!r} is reserved"):
        build(table, tmp_path / "mine")
    build(table, tmp_path / "mine", "--column", f"bird={name}")
