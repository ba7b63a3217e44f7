"""Lists of records of a built data set: one sentence for each kind of damage."""

import pytest
from test_folder import photos

from data_prep import build_lmdb, hierarchy, verify_lmdb
from data_prep.common.errors import UserError
from data_prep.label_tree import Hierarchy
from data_prep.records import read_listing


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listings")
    root = photos(folder / "photos", {"x/a": 3, "y/b": 3})
    out = folder / "mine"
    build_lmdb.main(["folder", "--root", str(root), "--size", "16", "--out", str(out)])
    return out


DAMAGE = [  # old bytes of the first record's line, new bytes, what is said
    (b"\t0\t0\n", b"\t-1\t0\n", "line 2 is damaged: '-1' is not a whole number from 0 to 1"),
    (b"\t0\t0\n", b"\t2\t0\n", "line 2 is damaged: '2' is not a whole number from 0 to 1"),
    (b"\t0\t0\n", b"\t0\t1\n", "line 2 is damaged: the labels [0, 1] are not a row of hierarchy"),
    (b"\t0\t0\n", b"\t0\t0x\n", "line 2 is damaged: '0x' is not a whole number"),
    (b"\t0\t0\n", b"\t" + b"9" * 5000 + b"\t0\n", "line 2 is damaged: '999"),
    (b"\t0\t0\n", "\t\u0660\t0\n".encode(), "line 2 is damaged"),
    (b"\t0\t0\n", b"\t0\n", "line 2: 3 cells, but the header has 4"),
    (b"\t0\t0\n", b"\t0\t0\t0\n", "line 2: 5 cells, but the header has 4"),
    (b"x/a", b"x\xff/a", "is not UTF-8 text"),
    (b"key\timage", b"key\tpath", "its columns are not key, image, level_1_id, level_2_id"),
]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("old, new, says", DAMAGE)
def test_damage(built, tmp_path, split, old, new, says):
    path = built / f"{split}.tsv"
    whole = path.read_bytes()
    header, rows = whole.split(b"\n", 1)
    first = b"\n".join(sorted(rows.splitlines(), key=lambda row: b"\t0\t0" not in row)) + b"\n"
    damaged = (header + b"\n" + first).replace(old, new, 1)
    assert damaged != whole
    try:
        path.write_bytes(damaged)
        for command in (
            lambda: read_listing(path, Hierarchy.read(built / "hierarchy.tsv")),
            lambda: verify_lmdb.main([str(built)]),
            lambda: hierarchy.main(["show", str(built), "--html", str(tmp_path / "x.html")]),
        ):
            with pytest.raises(UserError) as error:
                command()
            assert says in str(error.value) and "build the data set again" in str(error.value)
    finally:
        path.write_bytes(whole)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, says",
    [
        (b"[" * 10**4, "nested too deeply"),
        (b"9" * 5000, "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"name": 1, "name": 2}', "duplicate key"),
        (b"NaN", "not valid JSON"),
        (b"[]", "the value is not an object"),
        (b"{}", "format is missing"),
    ],
)
def test_a_manifest_that_is_none(built, content, says):
    path = built / "manifest.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            verify_lmdb.main([str(built)])
        assert says in str(error.value) and "build the data set again" in str(error.value)
    finally:
        path.write_bytes(whole)
