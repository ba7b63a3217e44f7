"""Decode damaged image files as a build does: decode_images.py SEED FIRST COUNT

Prints a JSON line per case: what was done to which file, what came of it, the memory planned and
taken (bytes). An abort of the process ends the lines; the last one names the case before it.
"""

import ctypes
import io
import json
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_prep"))
from image_bytes import chunk, encoded, tiff  # noqa: E402
from peak_memory import status  # noqa: E402

from data_prep import image_files, images  # noqa: E402


def seeds():
    """{name: bytes} of small valid files of all formats."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (21, 33, 3), np.uint8))
    sheer = noise.convert("RGBA")
    sheer.putalpha(77)
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, "a photograph"
    frames = {"save_all": True, "append_images": [noise.rotate(180), noise.rotate(90)]}
    return {
        "jpeg": encoded(noise, "JPEG", exif=exif),
        "jpeg progressive": encoded(noise, "JPEG", progressive=True),
        "jpeg cmyk": encoded(noise.convert("CMYK"), "JPEG"),
        "png": encoded(noise, "PNG", exif=exif, icc_profile=bytes(300), dpi=(9, 9)),
        "png palette": encoded(noise.quantize(9), "PNG", transparency=bytes(5)),
        "png transparent": encoded(sheer, "PNG"),
        "png 1": encoded(noise.convert("1"), "PNG"),
        "png animated": encoded(noise, "PNG", **frames),
        "gif": encoded(noise, "GIF"),
        "gif animated": encoded(noise, "GIF", **frames),
        "webp": encoded(noise, "WEBP", exif=exif, icc_profile=bytes(300)),
        "webp lossless": encoded(sheer, "WEBP", lossless=True),
        "webp transparent": encoded(sheer, "WEBP"),
        "webp animated": encoded(noise, "WEBP", **frames),
        "bmp": encoded(noise, "BMP"),
        "bmp palette": encoded(noise.quantize(9), "BMP"),
        "tiff": encoded(noise, "TIFF"),
        "tiff big": encoded(noise, "TIFF", big_tiff=True),
        "tiff lzw": encoded(noise, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(noise, "TIFF", compression="jpeg"),
        "tiff fax": encoded(noise.convert("1"), "TIFF", compression="group4"),
        "tiff tiles": tiff(33, 21, tile=(16, 16)),
        "tiff 16": tiff(33, 21, bits=16),
        "tiff float": tiff(33, 21, bits=32, kind=3),
    }


LARGE = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def flip(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_early(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
    return bytes(data)


def number(rng, data):
    """A field of 2 or 4 bytes, in either order, becomes a number that is hard to bear."""
    form = rng.choice(("<H", ">H", "<I", ">I"))
    size, most = struct.calcsize(form), 256 ** struct.calcsize(form)
    place = rng.randrange(min(len(data), rng.choice((64, 400, 1 << 20))) - size)
    value = struct.pack(form, rng.choice(LARGE) % most)
    return data[:place] + value + data[place + size :]


def twice(rng, data):
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((4, 12, 40, 400))]
    return data[:start] + part * rng.choice((2, 3, 50)) + data[start + len(part) :]


def without(rng, data):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 2, 12, 100)) :]


def longer(rng, data):
    return data + rng.choice((b"\0", b"\xff\xd9", b"IEND", data)) * rng.choice((1, 9))


def repair_png(rng, data):
    """Chunks of a PNG changed, left out, repeated, with right checksums: the decoder reads on."""
    if not data.startswith(b"\x89PNG"):
        return number(rng, data)
    chunks, position = [], 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        chunks.append((name, data[position + 8 : position + 8 + length]))
        position += 12 + length
    if not chunks:
        return data
    at = rng.randrange(len(chunks))
    name, content = chunks[at]
    if content and rng.random() < 0.7:
        chunks[at] = (
            name,
            rng.choice((flip, number if len(content) > 4 else flip, cut))(rng, content),
        )
    else:
        chunks[at : at + 1] = [chunks[at]] * rng.choice((0, 2, 5))
    return data[:8] + b"".join(chunk(*one) for one in chunks)


def inflate(rng, data):
    """A text in a PNG, or a whole TIFF, that inflates to much more."""
    bomb = zlib.compress(bytes(rng.choice((1000, 1_000_000, 7_000_000))), 9)
    if data.startswith(b"\x89PNG"):
        name, head = rng.choice(
            ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0"))
        )
        return data[:33] + chunk(name, head + bomb) * rng.choice((1, 40)) + data[33:]
    tile = rng.choice(((16, 16), (4096, 16), (2048, 2048), (1 << 20, 16), (1 << 16, 1 << 15)))
    return flip(rng, tiff(9, 9, tile=tile, data=bomb)) if rng.random() < 0.5 else tiff(
        9, 9, tile=tile, data=bomb
    )  # fmt: skip


MUTATIONS = (cut, flip, flip_early, number, twice, without, longer, repair_png, inflate)


def case(seed, at, files):
    """(what it is, bytes) of case number `at`."""
    rng = random.Random(f"{seed} {at}")
    name = rng.choice(sorted(files))
    data, done = files[name], [name]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        if len(data) > 8:
            data, done = mutation(rng, data), [*done, mutation.__name__]
    return " ".join(done), data


def main():
    seed, first, count = map(int, sys.argv[1:])
    files = seeds()
    for data in files.values():
        try:
            images.decode(data)
        except images.ImageError:
            pass
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    for at in range(first, first + count):
        what, data = case(seed, at, files)
        plan, reason = 0, None
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS")
        print(json.dumps({"case": at, "what": what}), end=" ", flush=True)
        try:
            header = image_files.header(io.BytesIO(data))
            scale = images.decode_scale(header, 16)
            plan = header.check_memory(scale)
            image = images.decode(data, scale)
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            images.resize(image, 16, "squeeze")
        except images.ImageError as error:
            reason = str(error)
        taken = status("VmHWM") - before
        print(json.dumps({"plan": plan, "taken": taken, "size": len(data), "reason": reason}))
        if taken > 1 << 24:
            ctypes.CDLL("libc.so.6").malloc_trim(0)


if __name__ == "__main__":
    main()
