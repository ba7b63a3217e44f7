"""Grids of images with names below: every script, every shape; the contact sheet of a build."""

import itertools

import cv2
import numpy as np
import pytest

from data_prep import build_lmdb, pictures
from data_prep.pictures import Tile

GRAY = np.full((40, 40, 3), 128, np.uint8)


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def named(name):
    return decoded(pictures.grid([Tile(GRAY, [(name, pictures.BLACK)])], 1, 160))


NAMES = {
    "accents": ("Père David", "Pere David"),
    "turkish": ("çığ", "cig"),
    "cyrillic": ("Ёж", "Еж"),
    "chinese": ("蓝鹀", "雀科"),
    "traditional": ("臺灣", "灣臺"),
    "japanese": ("かもめ", "カモメ"),
    "korean": ("갈매기", "기매갈"),
    "signs": ("$x_1$", "$x_2$"),
}


@pytest.mark.parametrize("pair", NAMES.values(), ids=NAMES)
def test_letters_of_all_scripts(pair, capsys):
    """Names of equal length look different: no boxes in place of letters, and none is missed."""
    if not any(map(str.isascii, pair)) and len(pictures._families()) < 2:
        pytest.skip(f"no font for it here: the Debian package {pictures.CJK_PACKAGE} has one")
    assert not np.array_equal(*map(named, pair))
    assert not capsys.readouterr().out


def test_letters_that_no_font_has(monkeypatch, capsys):
    monkeypatch.setattr(pictures, "CJK_FONTS", ())
    named("蓝鹀")
    assert "no installed font has 蓝鹀" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(400, 1), (1, 400), (1, 1), (3000, 2), (40, 40)])
def test_shapes(shape):
    """An image of any shape is fitted into its square and stays visible."""
    image = np.full((*shape, 3), (0, 0, 255), np.uint8)
    picture = decoded(pictures.grid([Tile(image, [("x", "black")]), None], 2, 100))
    red = np.argwhere((picture == (0, 0, 255)).all(axis=2))
    assert len(red) and (np.ptp(red, axis=0) < 100).all() and np.ptp(red, axis=0).max() > 90


def test_long_names_end_with_their_tile():
    lines = [("a name that is much too long for the tile that it is under, by far", "black")]
    picture = decoded(pictures.grid([Tile(GRAY, lines), None], 2, 100))
    assert picture[110:, : 6 + 100].min() < 128 and picture[:, 6 + 100 + 1 :].min() == 255
    assert pictures.shortened("蓝" * 50, 100) == "蓝" * 7 + "..."


def test_contact_sheet_of_extreme_shapes(tmp_path):
    """--resize shorter keeps the aspect ratio, and the contact sheet can still be drawn."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    sides = itertools.cycle([(400, 1), (1, 400), (1, 1)])
    for name in ("蓝鹀", "Père"):
        (root / name).mkdir(parents=True)
        for number, side in zip(range(6), sides):
            image = rng.integers(0, 256, (*side, 3), np.uint8)
            (root / name / f"{number}.png").write_bytes(cv2.imencode(".png", image)[1])
    options = ("--size", "16", "--resize", "shorter", "--out", str(tmp_path / "out"))
    assert build_lmdb.main(["folder", "--root", str(root), *options]) == 0
    sheet = cv2.imread(str(tmp_path / "out/contact_sheet.png"))
    assert sheet.shape[1] > 8 * 160 and sheet.min() < 50
