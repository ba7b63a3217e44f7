"""Draws grids of images with captions as PNG, with text in most of the world's scripts."""

import re
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.opencv import cv2

# matplotlib's own font covers Latin, Greek, Cyrillic, Arabic and more; the first installed one of
# these adds Chinese, Japanese and Korean.
FONT = "DejaVu Sans"
CJK_FONTS = (
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
)
CJK_PACKAGE = "fonts-wqy-microhei"
DPI = 100
GAP, FRAME = 6, 2  # pixels between tiles, and of the frame around an image
LINE, TITLE = 15, 36  # pixels: heights of a line and of the title
SIZE = 7.5  # points, of the text
LETTER = 0.56  # of the text's size: the mean width of a letter
BLACK, GRAY = "black", "#666666"


class Tile(NamedTuple):
    """An image (uint8 height x width x 3, BGR) and the lines [(text, color), ...] below it."""

    image: np.ndarray
    lines: list
    frame: str | None = None  # color


def grid(tiles, columns, side, title=""):
    """The bytes of a PNG with the Tiles in rows of `columns`; None leaves a place empty.

    side: side in pixels of the square that each image is fitted into.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    rows = -(-len(tiles) // columns)
    below = LINE * max(len(tile.lines) for tile in tiles if tile) + GAP
    top = TITLE if title else GAP
    width, height = GAP + columns * (side + GAP), top + rows * (side + GAP + below)
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    style = {"fontfamily": _families(), "parse_math": False}
    if title:
        at = GAP / width, 1 - TITLE / 2 / height
        figure.text(*at, title, fontsize=9, va="center", wrap=True, **style)
    for number, tile in enumerate(tiles):
        if tile is None:
            continue
        row, column = divmod(number, columns)
        x, y = GAP + column * (side + GAP), top + row * (side + GAP + below)
        image = fitted(tile.image, side - 2 * FRAME)
        left, upper = x + (side - image.shape[1]) // 2, y + side - FRAME - image.shape[0]
        place = canvas[upper : upper + image.shape[0], left : left + image.shape[1]]
        if tile.frame:
            color = np.rint(255 * np.array(to_rgb(tile.frame)[::-1])).astype(np.uint8)
            canvas[upper - FRAME : y + side, left - FRAME : left + image.shape[1] + FRAME] = color
        place[:] = image
        box = Bbox([[x, 0], [x + side, height]])  # pixels; clips long text at the tile's edge
        for line, (text, color) in enumerate(tile.lines):
            at = x / width, 1 - (y + side + LINE * (line + 0.5) + 2) / height
            figure.text(*at, shortened(text, side), color=color, fontsize=SIZE, va="center",
                        clip_on=True, clip_box=box, **style)  # fmt: skip
    canvas = _with_text(canvas, figure)
    return cv2.imencode(".png", canvas)[1].tobytes()


def _with_text(canvas, figure):
    """The canvas, BGR, overlaid with a figure of the same size and transparent background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.patch.set_alpha(0)
    drawn = FigureCanvasAgg(figure)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn.draw()
    _report(caught)
    drawn = np.asarray(drawn.buffer_rgba())
    inked = drawn[..., 3] > 0
    share = drawn[inked, 3:].astype(np.float32) / 255
    canvas[inked] = np.rint(drawn[inked, 2::-1] * share + canvas[inked] * (1 - share))
    return canvas


def shortened(text, side):
    """The text, truncated with `...` to about `side` pixels."""
    room = int(side / (LETTER * SIZE * DPI / 72))
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(widths) <= room:
        return text
    kept = int(np.searchsorted(np.cumsum(widths), room - 2, "right"))
    return text[:kept] + "..."


def fitted(image, side):
    """The image scaled to a longer side of `side` pixels, and a shorter one of at least one."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _families():
    """Names of the fonts, in the order in which a glyph is searched for."""
    from matplotlib import font_manager

    path = next(filter(lambda path: Path(path).is_file(), CJK_FONTS), None)
    if path is None:
        return [FONT]
    known = {font.fname: font.name for font in font_manager.fontManager.ttflist}
    if path not in known:
        font_manager.fontManager.addfont(path)
        known = {font.fname: font.name for font in font_manager.fontManager.ttflist}
    return [FONT, known[path]]


def _report(caught):
    """Report letters that no font has; passes other warnings on."""
    letters = ""
    for warning in caught:
        if found := re.match(r"Glyph (\d+) .*missing", str(warning.message)):
            letters += chr(int(found[1]))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if letters:
        letters = "".join(dict.fromkeys(letters))
        print(
            f"note: no installed font has {letters[:20]}: drawn as boxes; the Debian package "
            f"{CJK_PACKAGE} has Chinese, Japanese and Korean"
        )
