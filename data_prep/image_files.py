"""Image files before they are decoded: plain files of known formats, and what decoding them takes.

A file is what its first bytes say, whatever the ending of its name.
"""

import io
import os
import re
import stat
import struct
from contextlib import ExitStack
from dataclasses import dataclass

# Images with more pixels are refused, because a few bytes can declare gigabytes: 2**26 pixels are
# 200 MB decoded, more than any camera of the data sets takes.
MAX_PIXELS = 1 << 26
# Bytes that decoding may take: of one image, which is then alone, and of several at a time. The
# rest of a build takes some 80 MB, and freed memory does not all return to the system.
LARGEST, TOGETHER = 320 << 20, 200 << 20
AT_ONCE = 1 << 17  # bytes of a file that are read at once: all of a small photograph
SEGMENTS = 1 << 16  # steps to a JPEG's frame; real files need some ten
NO_FRAME = (0xC4, 0xC8, 0xCC)  # JPEG markers among those of frames (0xC0 to 0xCF), not of any
KEPT_WHOLE = (0xC2, 0xC6, 0xCA, 0xCE)  # progressive: coefficients stay until the last scan
PNG_ALPHA = (3, 4, 6)  # colour types with an alpha channel; a palette may have one
COPIES = 2 * 3  # bytes per pixel of the result and of its upright copy
FIELDS = {3: "H", 4: "I"}  # TIFF types of whole numbers, in struct's letters


class ImageError(Exception):
    """Why a file is not an image that can be used, without the file's name."""


@dataclass(frozen=True)
class Header:
    """What the head of an image file says."""

    format: str  # a key of FORMATS
    size: int  # of the file, bytes
    width: int  # as stored, before EXIF orientation
    height: int
    fixed: int = 0  # bytes that decoding takes at any scale, besides the file and the result

    def memory(self, scale=1):
        """Bytes that decoding at 1/scale takes: file, result and its upright copy."""
        pixels = -(-self.width // scale) * -(-self.height // scale)
        return self.size + self.fixed + COPIES * pixels


def open_plain(path):
    """Open a file for reading bytes; ImageError for anything but a plain, non-empty file.

    Devices and pipes are refused without waiting for their other end. Small files are read at once.
    """
    try:
        # Not blocking: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with ExitStack() as opened:
            opened.callback(os.close, descriptor)
            size = _plain_size(descriptor)
            if size <= AT_ONCE:
                return io.BytesIO(os.read(descriptor, size))
            opened.pop_all()
            return open(descriptor, "rb", buffering=AT_ONCE)
    except OSError as error:
        raise ImageError(error.strerror) from None


def _plain_size(descriptor):
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not a plain file")
    if not status.st_size:
        raise ImageError("the file is empty")
    if status.st_size > LARGEST:
        raise ImageError(f"a file of more than {LARGEST >> 20} MB")
    return status.st_size


def header(file):
    """The Header of an open image file, which is left at its start. ImageError if it is none, or
    one of more than MAX_PIXELS.
    """
    start = file.read(16)
    kind = next((kind for kind, (magic, _) in FORMATS.items() if magic.match(start)), None)
    if kind is None:
        *most, last = FORMATS
        raise ImageError(f"not an image: neither {', '.join(most)} nor {last}")
    try:
        width, height, fixed = FORMATS[kind][1](file)
    except (struct.error, ValueError, LookupError):
        raise ImageError(f"the {kind} file is cut short or damaged in its header") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, and at most {MAX_PIXELS} in all are allowed")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return Header(kind, size, width, height, fixed)


def _unpack(file, position, form):
    """The values of a struct at a position of the file."""
    file.seek(position)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _jpeg(file):
    """Walks from marker to marker until the frame; bytes between segments are skipped, as libjpeg
    does.
    """
    file.seek(2)
    for _ in range(SEGMENTS):
        if file.read(1) != b"\xff":
            continue
        code = file.read(1)[0]
        if code == 0xFF:  # padding before a marker
            file.seek(-1, os.SEEK_CUR)
        elif 0xC0 <= code <= 0xCF and code not in NO_FRAME:
            _, _, height, width, count = struct.unpack(">HBHHB", file.read(8))
            parts = [struct.unpack("3B", file.read(3))[1] for _ in range(count)]
            across, down = max(part >> 4 for part in parts), max(part & 15 for part in parts)
            shares = sum((part >> 4) * (part & 15) for part in parts) / (across * down)
            return width, height, int(2 * shares * width * height) * (code in KEPT_WHOLE)
        elif code > 1 and not 0xD0 <= code <= 0xD8:  # the others have no length
            file.seek(struct.unpack(">H", file.read(2))[0] - 2, os.SEEK_CUR)
    raise ValueError


def _png(file):
    width, height, depth, colour = _unpack(file, 16, ">IIBB")
    # Decoded twice: as stored, with alpha, of which a byte is kept; then without.
    extra = max(4 * max(depth, 8) // 8 + 1 - COPIES, 1)
    return width, height, width * height * extra * (colour in PNG_ALPHA)


def _gif(file):
    width, height = _unpack(file, 6, "<HH")
    return width, height, 4 * width * height


def _bmp(file):
    if _unpack(file, 14, "<I") == (12,):  # the header of OS/2
        width, height = _unpack(file, 18, "<HH")
    else:
        width, height = _unpack(file, 18, "<ii")
    width, height = abs(width), abs(height)  # negative: stored from the top
    return width, height, 4 * width * height


def _webp(file):
    (kind,) = _unpack(file, 12, "4s")
    if kind == b"VP8X":
        low, high = zip(*[_unpack(file, position, "<HB") for position in (24, 27)])
        width, height = (a + (b << 16) + 1 for a, b in zip(low, high))
    elif kind == b"VP8L":
        (bits,) = _unpack(file, 21, "<I")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in _unpack(file, 26, "<HH"))
    return width, height, 4 * width * height


def _tiff(file):
    order = {b"I": "<", b"M": ">"}[_unpack(file, 0, "c")[0]]
    (start,) = _unpack(file, 4, f"{order}I")
    values = {}  # of the tags that are one whole number, or the first of several
    for entry in range(_unpack(file, start, f"{order}H")[0]):
        position = start + 2 + 12 * entry
        tag, kind, count = _unpack(file, position, f"{order}HHI")
        if kind in FIELDS:
            form = f"{order}{FIELDS[kind]}"
            place = position + 8
            if count * struct.calcsize(form) > 4:  # the values are elsewhere
                (place,) = _unpack(file, place, f"{order}I")
            (values[tag],) = _unpack(file, place, form)
    width, height = values[256], values[257]
    return width, height, width * height * values.get(277, 1) * max(values.get(258, 1), 8) // 8


# {name: (its first bytes, function(file) -> (width, height, bytes of memory at any scale))}
FORMATS = {
    name: (re.compile(magic, re.DOTALL), read)
    for name, magic, read in (
        ("JPEG", rb"\xff\xd8", _jpeg),
        ("PNG", rb"\x89PNG\r\n\x1a\n", _png),
        ("GIF", rb"GIF8", _gif),
        ("WebP", rb"RIFF....WEBP", _webp),
        ("BMP", rb"BM", _bmp),
        ("TIFF", rb"II\*\0|MM\0\*", _tiff),
    )
}
