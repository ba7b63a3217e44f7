"""Image files written byte by byte, so that they can claim what no program writes."""

import io
import struct
import zlib

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def encoded(picture, kind, **options):
    """The bytes of a PIL image in a format of PIL's."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data, length=None):
    """A chunk of a PNG; length: what it claims instead of its own."""
    size = struct.pack(">I", len(data) if length is None else length)
    return size + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *chunks):
    """A black RGB PNG with more chunks before its pixels."""
    pixels = zlib.compress(bytes((3 * width + 1) * height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return PNG + head + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width, height, scans=((0, 1, 2),), progressive=False, extra=b""):
    """A gray JPEG of three full components, coded in these scans of components' numbers."""
    source, tables, position = encoded(Image.new("RGB", (16, 16)), "JPEG", subsampling=0), b"", 2
    while source[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", source, position + 2)
        if source[position + 1] in (0xDB, 0xC4):
            tables += source[position : position + 2 + length]
        position += 2 + length
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + b"".join(
        bytes([number, 0x11, 0]) for number in (1, 2, 3)
    )
    parts = [b"\xff\xd8" + extra + tables + (b"\xff\xc2" if progressive else b"\xff\xc0") + frame]
    for scan in scans:
        parts.append(b"\xff\xda" + struct.pack(">HB", 6 + 2 * len(scan), len(scan)))
        parts += [bytes([number + 1, 0]) for number in scan]
        blocks = len(scan) * -(-width // 8) * -(-height // 8)
        if progressive:  # first coefficients: 00, the difference 0, for each block
            parts.append(b"\0\0\0" + bytes(-(-blocks // 4)))
        else:  # 00, and 1010, the end of the block
            parts.append(b"\0\x3f\0" + b"\x28\xa2\x8a" * -(-blocks // 4))
    return b"".join(parts) + b"\xff\xd9"


def gif(width, height, *frames):
    """A GIF of frames (width, height) of one pixel's data."""
    parts = [b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)]
    for size in frames:
        parts.append(b"\x2c" + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x02\x02\x4c\x01\x00")
    return b"".join(parts) + b";"


def webp_in_canvas(picture, width, height, animated=False):
    """A WebP file that says that the image in it has another size."""

    def side(pixels):
        return (pixels - 1).to_bytes(3, "little")

    def riff(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    inner = encoded(picture, "WEBP", lossless=True, quality=0, method=0)[12:]
    if animated:
        frame = bytes(6) + side(picture.width) + side(picture.height) + bytes(4) + inner
        inner = riff(b"ANIM", bytes(6)) + riff(b"ANMF", frame)
    head = riff(b"VP8X", bytes([2 * animated, 0, 0, 0]) + side(width) + side(height))
    return riff(b"RIFF", b"WEBP" + head + inner)


def tiff(width, height, samples=3, bits=8, tile=None, kind=1, more=(), data=None, blob=b""):
    """A black, deflated TIFF of one strip or of equal tiles (width, height).

    kind   SampleFormat: 1 whole numbers, 3 floating point
    more   further entries (tag, type, count, bytes of the value, or None: those of the blob)
    """
    columns, rows = tile or (width, height)
    raw = zlib.compress(bytes(columns * rows * samples * bits // 8)) if data is None else data
    number = -(-width // columns) * -(-height // rows)
    numbers = struct.Struct(f"<{number}I")

    def short(*values):
        return struct.pack(f"<{len(values)}H", *values)

    def build(start):
        places, lengths = (273, 279) if tile is None else (324, 325)
        entries = [
            (256, 4, 1, struct.pack("<I", width)),
            (257, 4, 1, struct.pack("<I", height)),
            (258, 3, samples, short(*[bits] * samples)),
            (259, 3, 1, short(8)),
            (262, 3, 1, short(2 if samples > 2 else 1)),
            (277, 3, 1, short(samples)),
            (339, 3, samples, short(*[kind] * samples)),
            (places, 4, number, numbers.pack(*[start + len(blob)] * number)),
            (lengths, 4, number, numbers.pack(*[len(raw)] * number)),
            *more,
        ]
        if tile:
            entries += [
                (322, 4, 1, struct.pack("<I", columns)),
                (323, 4, 1, struct.pack("<I", rows)),
            ]
        else:
            entries.append((278, 4, 1, struct.pack("<I", height)))
        entries.sort(key=lambda entry: entry[0])
        head = b"II*\0" + struct.pack("<IH", 8, len(entries))
        tail, end = b"", 8 + 2 + 12 * len(entries) + 4
        for tag, form, count, value in entries:
            if value is None:
                place = struct.pack("<I", start)
            elif len(value) <= 4:
                place = value.ljust(4, b"\0")
            else:
                place, tail = struct.pack("<I", end + len(tail)), tail + value
            head += struct.pack("<HHI", tag, form, count) + place
        return head + bytes(4) + tail

    return build(len(build(0))) + blob + raw
