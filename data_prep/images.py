"""Image files in, uint8 height x width x 3 BGR arrays out: decode, crop, resize, encode."""

from pathlib import Path

import cv2
import numpy as np

from data_prep import MAX_PIXELS

JPEG_QUALITY = 95
RESIZES = ("squeeze", "shorter")
ENCODINGS = {"jpg": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)), "png": (".png", ())}
STRIP = 256  # rows
LONGEST = 1 << 14  # pixels of a stored image's side, which keeps it under MAX_PIXELS at any --size
BACKGROUND = 255  # where a file with an alpha channel is transparent: white


class ImageError(Exception):
    """Why a file is not an image that can be used, without the file's name."""


def read(path):
    """Decode a file upright (EXIF orientation applied) whatever its colour space, depth and alpha.

    Returns uint8 height x width x 3, BGR. Raises ImageError for what is missing, empty, cut short,
    too large or no image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(error.strerror) from None
    return decode(data)


def decode(data):
    """As `read`, from the bytes of a file."""
    if not data:
        raise ImageError("the file is empty")
    _check_whole(data)
    buffer = np.frombuffer(data, np.uint8)
    image = _imdecode(buffer, cv2.IMREAD_COLOR)
    if not data.startswith(b"\xff\xd8"):  # all but JPEG can have an alpha channel
        image = _flatten(image, _imdecode(buffer, cv2.IMREAD_UNCHANGED))
    return image


def _check_whole(data):
    """Refuse files that end early: decoders fill the rest with grey and say nothing.

    In a JPEG's compressed data every 0xff byte is followed by 0, so the last end-of-image marker
    comes after the last start-of-scan marker exactly if the file is whole.
    """
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ImageError("the JPEG file is cut short")
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-1024:]:
        raise ImageError("the PNG file is cut short")


def _imdecode(buffer, flags):
    try:
        image = cv2.imdecode(buffer, flags)
    except cv2.error:
        raise ImageError(f"not decodable, or more than {MAX_PIXELS} pixels") from None
    if image is None:
        raise ImageError("not an image that OpenCV can decode")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:  # OpenCV was loaded before its limit was set
        raise ImageError(f"more than {MAX_PIXELS} pixels")
    return image


def _flatten(image, raw):
    """Lay image on BACKGROUND by the alpha channel of raw, the same file as stored."""
    if raw.ndim != 3 or raw.shape[2] != 4 or raw.shape[:2] != image.shape[:2]:
        return image
    flat, most = np.empty_like(image), np.iinfo(raw.dtype).max
    for top in range(0, len(image), STRIP):  # in strips, because floats take four times the memory
        rows = slice(top, top + STRIP)
        alpha = raw[rows, :, 3:].astype(np.float32) / most
        flat[rows] = np.rint(image[rows] * alpha + BACKGROUND * (1 - alpha))
    return flat


def crop(image, box):
    """The part of the image in box (x, y, width, height; pixels), clipped to the image. No copy."""
    x, y, width, height = box
    x1, y1, x2, y2 = (max(0, int(round(edge))) for edge in (x, y, x + width, y + height))
    part = image[y1:y2, x1:x2]
    if part.size == 0:
        raise ImageError(
            f"the box {box} lies outside the image ({image.shape[1]} x {image.shape[0]})"
        )
    return part


def without_footer(image, rows):
    """The image without so many rows at its bottom. No copy."""
    if len(image) <= rows:
        raise ImageError(f"only {len(image)} pixels high: the lowest {rows} are to be cut off")
    return image[: len(image) - rows]


def resize(image, size, how):
    """Scale to size x size ("squeeze": the aspect ratio is lost), or so that the shorter side is
    size ("shorter": the whole image is kept; nets take a square crop of it).

    Raises ImageError where the longer side would exceed LONGEST.

    Shrinking averages areas, enlarging interpolates linearly; a squeeze may do either per axis.
    """
    height, width = image.shape[:2]
    if how == "squeeze":
        new_width = new_height = size
    else:
        scale = size / min(height, width)
        new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
        if max(new_width, new_height) > LONGEST:
            raise ImageError(f"{width} x {height} pixels: too long and narrow for that size")
    if new_width < width or new_height < height:
        shape = min(width, new_width), min(height, new_height)
        image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    if image.shape[:2] != (new_height, new_width):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return image


def encode(image, encoding):
    """The bytes of a file of one of ENCODINGS."""
    suffix, parameters = ENCODINGS[encoding]
    return cv2.imencode(suffix, image, list(parameters))[1].tobytes()


def centre(image, size):
    """The size x size pixels in the middle. No copy."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
