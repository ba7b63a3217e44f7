"""Checks image files before they are decoded: format, size, and the memory that decoding needs.

The first bytes of a file determine its format; the suffix of its name is ignored.
"""

import io
import os
import re
import stat
import struct
from contextlib import ExitStack
from dataclasses import dataclass

# Larger images are refused, because a few bytes can declare gigabytes: 2**26 pixels are 200 MB
# decoded, more than the data sets' cameras produce.
MAX_PIXELS = 1 << 26
# Memory limits of decoding, bytes: for one image, decoded alone, and for several at a time. The
# rest of a build takes some 80 MB, and not all freed memory returns to the system.
LARGEST, TOGETHER = 320 << 20, 200 << 20
AT_ONCE = 1 << 17  # bytes read at once: all of a small photograph
SEGMENTS = 1 << 16  # most segments before a JPEG's frame header; real files have about ten
NO_FRAME = (0xC4, 0xC8, 0xCC)  # JPEG markers from 0xC0 to 0xCF that do not start a frame
KEPT_WHOLE = (0xC2, 0xC6, 0xCA, 0xCE)  # progressive: coefficients stay until the last scan
SCANS = 200  # most scans of a progressive JPEG; real ones have about ten, each as slow as an image
PNG_KEPT = (b"tRNS", b"eXIf")  # optional chunks that affect the pixels
TAGS = 1000  # most tags of a TIFF file; real ones have about twenty
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, ROWS = 254, 256, 257, 258, 259, 277, 278
TILE_WIDTH, TILE_HEIGHT = 322, 323
TIFF_JPEG = (6, 7)  # compressions
# Compressions that need extra memory, or that the decoder lacks, are left out.
TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, *TIFF_JPEG, 8, 32773, 32946)
TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes of a value, by type
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers, in struct's letters
COPIES = 2 * 3  # bytes per pixel of the result and of its upright copy


class ImageError(Exception):
    """The reason why a file is not a usable image, without the file's name."""


class UnknownFormat(ImageError):
    """The file is not an image, or is one in a format that is not read."""


@dataclass(frozen=True)
class Header:
    """The facts that the header of an image file states."""

    format: str  # a key of FORMATS
    size: int  # of the file, bytes
    width: int  # as stored, before EXIF orientation
    height: int
    fixed: int = 0  # bytes that decoding needs at any scale, besides the file and the result

    def memory(self, scale=1):
        """Bytes that decoding at 1/scale needs: file, result and its upright copy."""
        pixels = -(-self.width // scale) * -(-self.height // scale)
        return self.size + max(self.size, self.fixed + COPIES * pixels)

    def check_memory(self, scale=1):
        """The bytes that decoding needs; raises ImageError if they exceed LARGEST."""
        memory = self.memory(scale)
        if memory > LARGEST:
            raise ImageError(
                f"{self.width} x {self.height} pixels: decoding takes {memory >> 20} MB, but at "
                f"most {LARGEST >> 20} MB are allowed"
            )
        return memory


def open_plain(path):
    """Open a file for reading bytes; raises ImageError unless it is a regular, non-empty file.

    Devices and pipes are refused without blocking. Small files are read at once.
    """
    try:
        # Non-blocking, because opening a pipe without a writer would block forever.
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


def looks_like_image(path):
    """Whether a file is an image, usable or not, by its suffix or its first bytes.

    False for an unreadable file. Only the name of a link counts, since it may lead anywhere.
    """
    if os.path.splitext(path)[1].lower() in SUFFIXES or os.path.islink(path):
        return os.path.splitext(path)[1].lower() in SUFFIXES
    try:
        with open_plain(path) as file:
            return _kind(file.read(START), {**FORMATS, **UNSUPPORTED}) is not None
    except (ImageError, OSError):
        return False


def _kind(start, formats):
    return next((kind for kind, (magic, _) in formats.items() if magic.match(start)), None)


def header(file):
    """The Header of an open image file, which is rewound to its start.

    Raises ImageError if the file is not an image or has more than MAX_PIXELS pixels.
    """
    start = file.read(START)
    kind = _kind(start, FORMATS)
    if kind is None:
        if other := _kind(start, UNSUPPORTED):
            raise UnknownFormat(f"an image in the format {other}: save it as JPEG or PNG")
        *most, last = FORMATS
        raise UnknownFormat(f"not an image: neither {', '.join(most)} nor {last}")
    size = file.seek(0, os.SEEK_END)
    try:
        width, height, fixed = FORMATS[kind][1](file, size)
    except (struct.error, ValueError, LookupError, ArithmeticError):
        raise ImageError(f"the {kind} file is cut short or damaged in its header") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, but at most {MAX_PIXELS} in all are allowed")
    file.seek(0)
    return Header(kind, size, width, height, fixed)


def to_decode(data):
    """The bytes of an image file, made safe for the decoder, which trusts every length in them.

    Optional chunks of a PNG (compressed texts and profiles, animations) are removed. Raises
    ImageError for truncated files, which decoders may silently complete with gray.
    """
    if data.startswith(b"\xff\xd8"):
        _check_whole_jpeg(data)
    if data.startswith(PNG):
        return _essential_png(data)
    return data


def _check_whole_jpeg(data):
    """Raises ImageError for a truncated JPEG file.

    In compressed data every 0xff byte is followed by 0, so the last end-of-image marker comes after
    the last start-of-scan marker if and only if the file is complete.
    """
    ends = data.endswith(b"\xff\xd9")  # nearly all files do, and need no search for the scan
    if not ends and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ImageError("the JPEG file is cut short")
    if data.count(b"\xff\xda") > SCANS:
        raise ImageError(f"a JPEG file of more than {SCANS} scans")


def _essential_png(data):
    parts, position, kept, seen = [data[: len(PNG)]], len(PNG), len(PNG), set()
    while True:
        if position + 12 > len(data):
            raise ImageError("the PNG file is cut short")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ImageError("the PNG file is cut short, or damaged in the length of a chunk")
        critical = not name[0] & 0x20
        if critical or (name in PNG_KEPT and name not in seen):
            kept += end - position
            parts.append((position, end))
        seen.add(name)
        position = end
        if name == b"IEND":
            break
    if kept == len(data):
        return data
    return b"".join([parts[0], *(data[start:end] for start, end in parts[1:])])


def _unpack(file, position, form):
    """The values of a struct at a position of the file."""
    file.seek(position)
    return struct.unpack(form, file.read(struct.calcsize(form)))


# Each function takes an open file and its size in bytes, and returns width, height and
# Header.fixed. The bytes per pixel were measured on the decoder.


def _jpeg(file, size):
    """Walk the markers to the first scan; skips bytes between segments, as libjpeg does."""
    file.seek(2)
    frame = None
    for _ in range(SEGMENTS):
        if file.read(1) != b"\xff":
            continue
        code = file.read(1)[0]
        if code == 0xFF:  # padding before a marker
            file.seek(-1, os.SEEK_CUR)
        elif 0xC0 <= code <= 0xCF and code not in NO_FRAME and not frame:
            length, _, height, width, count = struct.unpack(">HBHHB", file.read(8))
            parts = [struct.unpack("3B", file.read(3))[1] for _ in range(count)]
            across, down = max(part >> 4 for part in parts), max(part & 15 for part in parts)
            shares = sum((part >> 4) * (part & 15) for part in parts) / (across * down)
            frame = code, count, width, height, int(2 * shares * width * height)
            file.seek(length - 8 - 3 * count, os.SEEK_CUR)
        elif code == 0xDA and frame:
            code, count, width, height, coefficients = frame
            (scanned,) = struct.unpack("2xB", file.read(3))
            # Coefficients stay in memory too if a scan lacks a component. Markers are copied.
            whole = code in KEPT_WHOLE or scanned < count
            return width, height, coefficients * whole + size
        elif code > 1 and not 0xD0 <= code <= 0xD8:  # the others have no length
            file.seek(struct.unpack(">H", file.read(2))[0] - 2, os.SEEK_CUR)
    raise ValueError


def _png(file, size):
    width, height, depth, color = _unpack(file, 16, ">IIBB")
    position, transparent = len(PNG), color in (4, 6)
    for _ in range(SEGMENTS):
        length, name = _unpack(file, position, ">I4s")
        transparent = transparent or name == b"tRNS"
        if name == b"IDAT":
            break
        position += 12 + length
    # Decoded as stored, with alpha, of which one byte per pixel is kept; then without alpha.
    return width, height, width * height * transparent * (11 if depth == 16 else 5)


def _gif(file, size):
    width, height = _unpack(file, 6, "<HH")
    return width, height, 13 * width * height


def _bmp(file, size):
    if _unpack(file, 14, "<I") == (12,):  # the header of OS/2
        width, height = _unpack(file, 18, "<HH")
    else:
        width, height = _unpack(file, 18, "<ii")
    width, height = abs(width), abs(height)  # negative: stored from the top
    return width, height, 4 * width * height


def _webp(file, size):
    (kind,) = _unpack(file, 12, "4s")
    if kind == b"VP8X":
        low, high = zip(*[_unpack(file, position, "<HB") for position in (24, 27)])
        width, height = (a + (b << 16) + 1 for a, b in zip(low, high))
    elif kind == b"VP8L":
        (bits,) = _unpack(file, 21, "<I")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in _unpack(file, 26, "<HH"))
    return width, height, 9 * width * height


def _tiff(file, size):
    tags, claimed = _tiff_tags(file, size)
    width, height = tags[WIDTH], tags[HEIGHT]
    if tags.get(SUBFILE, 0) & 1:
        raise ImageError("a TIFF file that begins with a thumbnail, like raw camera files: convert")
    if tags.get(COMPRESSION, 1) not in TIFF_COMPRESSIONS:
        raise ImageError(f"a TIFF file of compression {tags[COMPRESSION]}: save it with LZW")
    samples, bits = tags.get(SAMPLES, 1), max(tags.get(BITS, 1), 8)
    if (TILE_WIDTH in tags) != (TILE_HEIGHT in tags):
        raise ValueError
    unit = tags.get(TILE_WIDTH, width) * tags.get(TILE_HEIGHT, min(tags.get(ROWS, height), height))
    stored = samples * bits // 8  # bytes per pixel
    fixed = width * height * stored * (bits > 8) + unit * (stored + max(stored, 4))
    fixed += min(size, 2 * unit * stored) + 6 * unit * (tags.get(COMPRESSION) in TIFF_JPEG)
    return width, height, fixed + 2 * claimed


def _tiff_tags(file, size):
    """{tag: its number, the largest of several} of the first image, and the bytes of all values.

    Raises ImageError if a tag occurs twice, since decoders differ in which one they use, or if the
    values claim more bytes than the file has, as overlapping values do.
    """
    order = {b"I": "<", b"M": ">"}[_unpack(file, 0, "c")[0]]
    big = _unpack(file, 2, f"{order}H") == (43,)
    offset, number = ("Q", "Q") if big else ("I", "H")
    inline = struct.calcsize(offset)
    (start,) = _unpack(file, 8 if big else 4, f"{order}{offset}")
    (count,) = _unpack(file, start, f"{order}{number}")
    if count > TAGS:
        raise ImageError(f"a TIFF file of {count} tags")
    tags, claimed = {}, 0
    for entry in range(count):
        position = start + struct.calcsize(number) + (4 + 2 * inline) * entry
        tag, kind, values = _unpack(file, position, f"{order}HH{offset}")
        if tag in tags:
            raise ImageError(f"a TIFF file in which the tag {tag} occurs twice")
        tags[tag] = 0
        length = values * (TIFF_SIZES[kind] if kind < len(TIFF_SIZES) else 1)
        place = position + 4 + inline
        if length > inline:  # the values are elsewhere
            (place,) = _unpack(file, place, f"{order}{offset}")
            claimed += length
        if claimed > size:
            raise ImageError("a TIFF file whose tags claim more bytes than it has")
        if kind in TIFF_NUMBERS and 0 < values <= 16:
            tags[tag] = max(_unpack(file, place, f"{order}{values}{TIFF_NUMBERS[kind]}"))
    return tags, claimed


def _formats(rows):
    return {name: (re.compile(magic, re.DOTALL), read) for name, magic, read in rows}


START = 32  # bytes that identify the format of a file
PNG = b"\x89PNG\r\n\x1a\n"
# {name: (its first bytes, function(file, size) -> (width, height, bytes of memory at any scale))}
FORMATS = _formats(
    (
        ("JPEG", rb"\xff\xd8", _jpeg),
        ("PNG", re.escape(PNG), _png),
        ("GIF", rb"GIF8", _gif),
        ("WebP", rb"RIFF....WEBP", _webp),
        ("BMP", rb"BM", _bmp),
        ("TIFF", rb"II[*+]\0|MM\0[*+]", _tiff),
    )
)
# Unsupported photographs, which are reported instead of being overlooked.
UNSUPPORTED = _formats(
    (
        ("HEIF", rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", None),
        ("AVIF", rb"....ftypavi[fs]", None),
        ("of a camera (raw)", rb"....ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIR[OS]", None),
        ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51", None),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL ", None),
        ("Netpbm", rb"P[1-7]\s+[#0-9W]", None),
    )
)
SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .pjpeg .png .gif .webp .bmp .dib .tif .tiff".split())
