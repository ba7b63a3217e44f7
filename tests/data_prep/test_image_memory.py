"""The memory that decoding takes is known beforehand, also of files made to take more."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="Pillow writes the files (matplotlib brings it)")

from image_bytes import chunk, encoded, gif, jpeg, png, tiff, webp_in_canvas  # noqa: E402

from data_prep import image_files, images  # noqa: E402

SLACK = 5 << 20  # bytes: the decoder's own tables, and pages that the allocator keeps
SIDE = 1500
BLACK = {kind: Image.new(kind, (SIDE, SIDE)) for kind in ("1", "L", "P", "RGB", "RGBA", "CMYK")}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))
SHEER = Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 9))
BOMB = zlib.compress(bytes(7_900_000), 9)


def opencv(kind, channels):
    image = np.zeros((SIDE, SIDE, channels), np.uint16)
    image[0, 0] = 1
    return cv2.imencode(kind, image)[1].tobytes()


def turned():
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


PLAIN = {
    "jpeg turned": encoded(BLACK["RGB"], "JPEG", exif=turned()),
    "jpeg turned progressive": encoded(BLACK["RGB"], "JPEG", exif=turned(), progressive=True),
    "png turned": encoded(BLACK["RGB"], "PNG", exif=turned()),
    "webp turned": encoded(BLACK["RGB"], "WEBP", exif=turned()),
    "tiff turned": tiff(SIDE, SIDE, more=[(274, 3, 1, b"\6\0")]),
    "tiff large tile turned": tiff(100, 100, tile=(SIDE, SIDE), more=[(274, 3, 1, b"\6\0")]),
    "jpeg": jpeg(SIDE, SIDE),
    "jpeg progressive": jpeg(SIDE, SIDE, progressive=True),
    "jpeg three scans": jpeg(SIDE, SIDE, scans=((0,), (1,), (2,))),
    "jpeg two scans": jpeg(SIDE, SIDE, scans=((0, 1), (2,))),
    "jpeg cmyk progressive": encoded(BLACK["CMYK"], "JPEG", progressive=True),
    **{f"png {kind}": encoded(BLACK[kind], "PNG") for kind in ("1", "L", "P", "RGB")},
    **{f"gif {kind}": encoded(BLACK[kind].convert("P"), "GIF") for kind in ("L", "RGBA")},
    **{f"bmp {kind}": encoded(BLACK[kind], "BMP") for kind in ("1", "L", "RGB", "RGBA")},
    "png transparent": encoded(SHEER, "PNG"),
    "png one transparent color": encoded(BLACK["RGB"], "PNG", transparency=(0, 0, 0)),
    "png transparent palette": encoded(BLACK["P"], "PNG", transparency=bytes(9)),
    "png 16": opencv(".png", 3),
    "png 16 transparent": opencv(".png", 4),
    "webp": encoded(BLACK["RGB"], "WEBP"),
    "webp noise": encoded(NOISE, "WEBP", lossless=True, quality=0, method=0),
    "webp transparent": encoded(SHEER, "WEBP"),
    "webp transparent lossless": encoded(SHEER, "WEBP", lossless=True),
    "webp animated": encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)] * 3),
    "tiff": tiff(SIDE, SIDE),
    "tiff 16": tiff(SIDE, SIDE, bits=16),
    "tiff float": tiff(1000, 1000, bits=32, kind=3),
    "tiff double": tiff(1000, 1000, bits=64, kind=3),
    "tiff gray": tiff(SIDE, SIDE, samples=1),
    "tiff tiles": tiff(SIDE, SIDE, tile=(256, 256)),
    "tiff noise": encoded(NOISE, "TIFF"),
    "tiff jpeg": encoded(NOISE, "TIFF", compression="jpeg"),
    "tiff fax": encoded(BLACK["1"], "TIFF", compression="group4"),
}
MADE = {
    **{f"png length {n:x}": png(9, 9, chunk(b"tEXt", b"x", n)) for n in (1 << 26, 2**31 - 1)},
    "png pixels' length": png(9, 9)[:33] + chunk(b"IDAT", b"x" * 10, 2**31 - 1) + b"IEND",
    "png texts": png(9, 9, *[chunk(b"zTXt", b"a\0\0" + BOMB)] * 300),
    "png international texts": png(9, 9, *[chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)] * 300),
    "png profile": png(9, 9, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
    "png palettes": png(9, 9, *[chunk(b"sPLT", b"a\0\x08" + bytes(6_000_000))] * 3),
    "png frames": png(9, 9, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "png large frame": png(
        9, 9, chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"fcTL", struct.pack(">5I2H2B", 0, 30000, 30000, 0, 0, 1, 1, 0, 0)),
    ),
    "jpeg exif": jpeg(9, 9, extra=(b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 300),
    "jpeg profile": jpeg(9, 9, extra=(b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes(65521)) * 300),
    "jpeg scans": jpeg(1000, 1000, scans=((0, 1, 2),) * 300, progressive=True),
    "gif large frame": gif(9, 9, (65535, 65535)),
    "gif frames": gif(200, 200, *[(1, 1)] * 20000),
    "webp small canvas": webp_in_canvas(BLACK["RGB"], 9, 9),
    "webp small animation": webp_in_canvas(BLACK["RGB"], 9, 9, animated=True),
    "tiff large tile": tiff(9, 9, tile=(6000, 6000)),
    "tiff larger tile": tiff(9, 9, tile=(16384, 16384), data=b"x" * 100),
    "tiff wide tile": tiff(9, 9, tile=(1 << 20, 16)),
    "tiff size twice": tiff(
        9, 9, more=[(tag, 4, 1, struct.pack("<I", 7000)) for tag in (256, 257)]
    ),
    "tiff shared values": tiff(
        9, 9, more=[(40000 + n, 7, 2_000_000, None) for n in range(200)], blob=bytes(2_000_000)
    ),
    "tiff long value": tiff(9, 9, more=[(34675, 7, 2**32 - 1, None)], blob=b"x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """{(name, scale): what was measured}."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory can't be measured here: /proc/self/clear_refs")
    folder, found = tmp_path_factory.mktemp("memory"), {}
    names = {**PLAIN, **MADE}
    for number, data in enumerate(names.values()):
        (folder / str(number)).write_bytes(data)
    for scale in (1, 8):
        some = [n for n, name in enumerate(names) if scale == 1 or name.startswith("jpeg")]
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("peak_memory.py"), str(scale),
             *(folder / str(number) for number in some)],
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for number, line in zip(some, done.stdout.splitlines(), strict=True):
            found[[*names][number], scale] = json.loads(line)
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_planned(seen, name):
    """Images are decoded in the memory that was planned, and take a good part of it."""
    unusable = name in ("tiff float", "tiff double")
    for scale in (1, 8) if name.startswith("jpeg") else (1,):
        one = seen[name, scale]
        assert (one["reason"] is not None) == unusable, one
        assert one["peak"] <= one["plan"] + SLACK, one
        assert scale > 1 or unusable or one["peak"] >= one["plan"] / 4, one


@pytest.mark.parametrize("name", MADE)
def test_nothing_takes_more(seen, name):
    one = seen[name, 1]
    assert one["plan"] is not None or one["reason"], one
    assert one["peak"] <= (one["plan"] or 0) + len(MADE[name]) + SLACK, one


@pytest.mark.parametrize(
    "name, says",
    [
        ("png length 7fffffff", "length of a chunk|damaged in its header"),
        ("png pixels' length", "length of a chunk"),
        ("jpeg scans", "more than 200 scans"),
        ("tiff larger tile", "decoding takes"),
        ("tiff size twice", "the tag 256 occurs twice"),
        ("tiff shared values", "claim more bytes than it has"),
        ("tiff long value", "claim more bytes than it has"),
    ],
)
def test_reasons(seen, name, says):
    assert re.search(says, seen[name, 1]["reason"])


def test_optional_chunks_change_no_pixel():
    """Texts, profiles and further frames are removed before decoding; transparency stays."""
    exif = Image.Exif()
    exif[0x112] = 3
    data = encoded(NOISE, "PNG", exif=exif, dpi=(9, 9))
    kept = image_files.to_decode(data)
    assert b"eXIf" in kept and b"pHYs" in data and b"pHYs" not in kept
    assert image_files.to_decode(kept) is kept
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(images.decode(data), whole)
    assert np.array_equal(images.decode(data), np.array(NOISE)[::-1, ::-1, ::-1])
