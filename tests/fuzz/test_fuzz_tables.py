"""Damaged tables, folders, lists, label trees, manifests and LMDBs: one sentence or success."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from cases import count
from damage import chance, damaged, keeps_its_promise

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_prep"))

import archive
import lmdb

from data_prep import build_lmdb, hierarchy, lmdb_io, verify_lmdb

FOLDERS = (
    *("train", "test", "val", "Train", "seg_train", "seg_test", "training_set", "car", "bus", "ä"),
    *("a\u0308", " a", "a", "A", "a  b", "a b", "extra", "\u200b", ".hidden", "trainval", "#1"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of files a.jpg to h.jpg, which are listed and never decoded here."""
    folder = tmp_path_factory.mktemp("fuzz")
    for letter in "abcdefgh":
        (folder / f"{letter}.jpg").write_bytes(b"\xff\xd8")
    return folder


HEADERS = (
    "path,species,family,split,x,y,w,h",
    ",x1,y1,x2,y2,Class,image",
    "path,species,family,split,width,photographer",
)


def table(random, header):
    lines = [header]
    for i, letter in enumerate("abcdefgh"):
        cells = {
            **dict.fromkeys(("path", "image"), f"{letter}.jpg"),
            **dict.fromkeys(("species", "Class"), "pqrs"[i // 2]),
            "family": "uv"[i // 4],
            "split": ("train", "test")[i % 2],
            "photographer": random.choice("xyz"),
        }
        lines.append(",".join(cells.get(c, str(random.randint(0, 99))) for c in header.split(",")))
    return "\n".join(lines).encode()


OPTIONS = (
    *((), ("--bbox",), ("--levels", "species"), ("--test-share", "0.5"), ("--validation", "1")),
    *(("--bbox", "--boxes", "relative"), ("--bbox", "--boxes", "corners", "--levels", "Class")),
    *(("--column", "path=image"), ("--column", "split=family"), ("--path", "{species}{path}")),
    *(("--header", "path,species,family,split"), ("--path", "{no"), ("--column", "species=path")),
)


def test_tables(photos):
    built = 0
    for seed in range(count(150)):
        random = chance("tables", seed)
        data = table(random, random.choice(HEADERS))
        file = photos / random.choice(("t.csv", "t.csv", "t.csv", "t.tsv"))
        file.write_bytes(damaged(random, data, 2) if random.random() < 0.7 else data)
        options = [word for _ in range(random.randint(0, 2)) for word in random.choice(OPTIONS)]
        command = ("table", "--table", file, "--root", photos, *options, "--dry-run")
        built += keeps_its_promise(build_lmdb.main, *command)
        file.unlink()
    assert built
    assert {path.suffix for path in photos.iterdir()} == {".jpg"}


def test_folders(tmp_path):
    built = 0
    for seed in range(count(50)):
        random, root = chance("folders", seed), tmp_path / str(seed)
        names = random.sample(FOLDERS, random.randint(2, 5))
        depth = random.choice((1, 2, 2, 3))
        for number in range(random.randint(1, 12)):
            parts = [random.choice(names) for _ in range(depth + (random.random() < 0.03))]
            folder = root.joinpath(*parts)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}{random.choice(('.jpg', '.PNG', '.txt', '.jpg'))}").touch()
        options = random.choice(((), ("--splits", "none"), ("--splits", "train=train,test=test")))
        command = ("folder", "--root", root, *options, "--dry-run", "--out", tmp_path / "out")
        built += keeps_its_promise(build_lmdb.main, *command)
        shutil.rmtree(root)
    assert built and not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return archive.make(tmp_path_factory.mktemp("fuzz") / "birds")


LISTS = ("images", "image_class_labels", "train_test_split", "classes", "bounding_boxes")


def test_lists(birds):
    for seed in range(count(60)):
        random = chance("lists", seed)
        file = birds / f"{random.choice(LISTS)}.txt"
        whole = file.read_bytes()
        file.write_bytes(damaged(random, whole))
        options = ("--partial", *random.choice(((), ("--bbox",))), "--dry-run")
        keeps_its_promise(build_lmdb.main, "cub", "--root", birds, *options)
        file.write_bytes(whole)


TREES = (
    b"species\tfamily\torder\ngull\tL\tC\ntern\tL\tC\nhawk\tA\tX\nowl\tS\tX\n",
    b"a_id\ta\tb_id\tb\n0\tx\t0\tp\n1\ty\t0\tp\n2\tz\t1\tq\n",
    b"# child parent\n1 0\n2 0\n10 1\n11 1\n12 2\n",
    b"n1,n0\nn2,n0\nn3,n1\nn4,n2\n",
)


def test_label_trees(tmp_path):
    good = 0
    for seed in range(count(120)):
        random = chance("trees", seed)
        file, out = tmp_path / "tree.tsv", tmp_path / "out.tsv"
        file.write_bytes(damaged(random, random.choice(TREES)))
        good += keeps_its_promise(hierarchy.main, "check", file)
        keeps_its_promise(hierarchy.main, "show", file, "--html", tmp_path / "out.html")
        (tmp_path / "out.html").unlink(missing_ok=True)
        options = random.choice(((), ("--pad",), ("--parent-first",), ("--names", file)))
        done = keeps_its_promise(hierarchy.main, "convert", file, "--out", out, *options)
        assert out.exists() == done
        if done:
            assert keeps_its_promise(hierarchy.main, "check", out)
            out.unlink()
        assert {path.name for path in tmp_path.iterdir()} == {"tree.tsv"}
    assert good


@pytest.fixture(scope="module")
def built(birds, tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzz") / "built"
    size = ("--partial", "--size", "16", "--jobs", "1", "--validation", "4")
    build_lmdb.main(["cub", "--root", str(birds), "--out", str(out), *size])
    return out


def test_files_of_a_data_set(built, tmp_path):
    """Damage to a text file is found: by its checksum, or because the file can't be read."""
    for seed in range(count(60)):
        random = chance("files", seed)
        file = built / random.choice(
            ("manifest.json", "hierarchy.tsv", "train.tsv", "val.tsv", "test.tsv")
        )
        whole = file.read_bytes()
        file.write_bytes(damaged(random, whole))
        right = keeps_its_promise(verify_lmdb.main, built)
        assert not right or file.name == "manifest.json" or file.read_bytes() == whole
        keeps_its_promise(hierarchy.main, "show", built, "--html", tmp_path / "out.html")
        file.write_bytes(whole)
    assert keeps_its_promise(verify_lmdb.main, built)


def test_values_of_a_manifest(built):
    """Each value of the manifest, replaced by values of other kinds and sizes."""
    file = built / "manifest.json"
    whole = file.read_text()
    others = (None, -1, 0, 2**70, 1.5, "", "x", [], {}, [[]], {"a": 1}, True)
    for seed in range(count(100)):
        random, manifest = chance("manifest", seed), json.loads(whole)
        place = manifest
        while True:
            key = random.choice([*place] if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or random.random() < 0.3:
                break
            place = place[key]
        place[key] = random.choice(others)
        file.write_text(json.dumps(manifest))
        keeps_its_promise(verify_lmdb.main, built)
    file.write_text(whole)


def test_records(built, tmp_path):
    """Damaged keys and values in sound LMDBs."""
    for seed in range(count(25)):
        random, copy = chance("records", seed), tmp_path / str(seed)
        shutil.copytree(built, copy)
        name = f"{random.choice(('train', 'val', 'test'))}_{random.choice(('images', 'labels'))}"
        records = [*lmdb_io.items(copy / name)]
        with lmdb.open(str(copy / name), map_size=1 << 24) as env, env.begin(write=True) as write:
            key, value = random.choice(records)
            write.delete(key)
            write.put(damaged(random, key)[:500] or b"\xff", damaged(random, value))
        assert (
            not keeps_its_promise(verify_lmdb.main, copy)
            or [*lmdb_io.items(copy / name)] == records
        )
        shutil.rmtree(copy)


def _read(arguments):
    for _ in lmdb_io.items(Path(arguments[0])):
        pass


def test_pages(built, tmp_path):
    """Damaged bytes anywhere in an LMDB: LMDB itself would follow them out of its file."""
    for seed in range(count(150)):
        random, copy = chance("pages", seed), tmp_path / "lmdb"
        copy.mkdir(exist_ok=True)
        data = bytearray((built / "train_labels/data.mdb").read_bytes())
        for _ in range(random.choice((1, 4, 64))):
            start = random.choice((random.randrange(len(data)), random.randrange(300)))
            start = random.choice((start, 4096 * random.randrange(len(data) // 4096)))
            patch = random.randbytes(random.choice((1, 2, 8, 16)))
            data[start : start + len(patch)] = patch
        end = len(data) if random.random() < 0.8 else random.randrange(len(data))
        (copy / "data.mdb").write_bytes(data[:end])
        keeps_its_promise(_read, copy)
