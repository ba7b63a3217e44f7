"""Decodes, crops, resizes and encodes images; arrays are uint8, height x width x 3, BGR."""

import numpy as np

from data_prep.image_files import MAX_PIXELS, ImageError, to_decode
from data_prep.opencv import cv2

JPEG_QUALITY = 95
RESIZES = ("squeeze", "shorter")
ENCODINGS = {  # arguments of cv2.imencode; raw is not encoded
    "jpg": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)),
    "png": (".png", ()),
    "raw": None,
}
SCALES = {  # libjpeg's: decodes to 1/scale of the width and height, by averaging
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
PART = 1 << 14  # pixels
SMALLEST_BOX = 3  # pixels; shorter sides indicate boxes in other units, such as 0 to 1
LONGEST = 1 << 14  # longest side of a stored image, pixels; keeps it under MAX_PIXELS at any --size
BACKGROUND = 255  # white, behind transparent pixels


def decode_scale(header, size, box=None):
    """The scale, a key of SCALES, at which to decode a file (image_files.Header) for a stored size.

    The part of the image in box (x, y, width, height; pixels, upright) keeps at least the stored
    size. Large photographs decode about four times as fast that way, in a fraction of the memory.
    """
    used = min(header.width, header.height, *(box[2:] if box else ()))
    if header.format != "JPEG":
        return 1
    return next((scale for scale in SCALES if used >= size * scale), 1)


def decode(data, scale=1):
    """Decode the bytes of an image file of any color space, depth and alpha, upright.

    The EXIF orientation is applied; width and height are divided by scale (a key of SCALES).
    Returns uint8 height x width x 3, BGR. Raises ImageError for data that is empty, truncated, too
    large or not an image.
    """
    if not data:
        raise ImageError("the file is empty")
    data = to_decode(data)
    buffer = np.frombuffer(data, np.uint8)
    alpha = _alpha(buffer) if _may_have_alpha(data) else None
    image = _imdecode(buffer, SCALES[scale])
    if alpha is None:
        return image
    if data.startswith((b"II", b"MM")):  # OpenCV premultiplies alpha in some TIFF files only
        raise ImageError("a transparent TIFF file: save it as PNG, or without transparency")
    stored = _imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if not np.array_equal(image, stored):
        raise ImageError("both transparent and stored turned (EXIF): save it upright")
    return _flatten(image, alpha)


def _imdecode(buffer, flags):
    try:
        image = cv2.imdecode(buffer, flags)
    except cv2.error:
        raise ImageError(f"not decodable, or more than {MAX_PIXELS} pixels") from None
    if image is None:
        raise ImageError("damaged, cut short, or not an image that OpenCV can decode")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:  # OpenCV was loaded before its limit was set
        raise ImageError(f"more than {MAX_PIXELS} pixels")
    return image


def _may_have_alpha(data):
    """Whether an image file can have an alpha channel; files that can't are decoded only once."""
    if data.startswith(b"\x89PNG"):  # by its color type, or one transparent color
        return data[25] in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")]
    return not data.startswith((b"\xff\xd8", b"BM"))


def _alpha(buffer):
    """uint8 height x width, as stored, 255 opaque; None if nothing is transparent."""
    raw = _imdecode(buffer, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 3 or raw.shape[2] != 4:
        return None
    alpha = raw[:, :, 3]
    if alpha.dtype != np.uint8:
        most = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1
        alpha = cv2.convertScaleAbs(alpha, alpha=255 / most)
    return None if alpha.min() == 255 else alpha.copy()  # a view would keep raw in memory


def _flatten(image, alpha):
    """Blend image with BACKGROUND, in place."""
    pixels, shares = image.reshape(-1, 3), alpha.reshape(-1, 1)  # n x 3, n x 1
    for start in range(0, len(pixels), PART):  # because floats take four times the memory
        part = slice(start, start + PART)
        share = shares[part].astype(np.float32) / 255
        pixels[part] = np.rint(pixels[part] * share + BACKGROUND * (1 - share))
    return image


def crop(image, box):
    """The part of the image in box (x, y, width, height; pixels), clipped to the image. No copy.

    Raises ImageError if a side of the part is shorter than SMALLEST_BOX.
    """
    x, y, width, height = box
    x1, y1, x2, y2 = (max(0, int(round(edge))) for edge in (x, y, x + width, y + height))
    part = image[y1:y2, x1:x2]
    if x >= image.shape[1] or y >= image.shape[0] or x + width <= 0 or y + height <= 0:
        raise ImageError(
            f"the box {box} lies outside the image ({image.shape[1]} x {image.shape[0]})"
        )
    if min(part.shape[:2]) < SMALLEST_BOX:
        raise ImageError(
            f"the box {box} covers only {part.shape[1]} x {part.shape[0]} pixels of the image; "
            "boxes are in pixels"
        )
    return part


def grown(box, share):
    """The box (x, y, width, height) with a margin of that share of its sides around it."""
    x, y, width, height = box
    return (
        x - share * width,
        y - share * height,
        (1 + 2 * share) * width,
        (1 + 2 * share) * height,
    )


def without_footer(image, rows):
    """The image without the lowest `rows` rows. No copy."""
    if len(image) <= rows:
        raise ImageError(f"only {len(image)} pixels high, but the lowest {rows} are to be removed")
    return image[: len(image) - rows]


def resize(image, size, how):
    """Scale to size x size ("squeeze": ignores the aspect ratio) or to a shorter side of size
    ("shorter": keeps the whole image, of which nets take a square crop).

    Raises ImageError if the longer side would exceed LONGEST.

    Shrinking to less than half averages areas. Otherwise interpolation between the nearest 2 x 2
    pixels is used, which is several times as fast and skips no pixel. A squeeze decides per axis.
    """
    height, width = image.shape[:2]
    if how == "squeeze":
        new_width = new_height = size
    else:
        scale = size / min(height, width)
        new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
        if max(new_width, new_height) > LONGEST:
            raise ImageError(f"{width} x {height} pixels: too long and narrow for this size")
    if 2 * new_width < width or 2 * new_height < height:
        shape = min(width, new_width), min(height, new_height)
        image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    if image.shape[:2] != (new_height, new_width):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return image


def encode(image, encoding):
    """The bytes of a file in one of ENCODINGS other than raw."""
    suffix, parameters = ENCODINGS[encoding]
    return cv2.imencode(suffix, image, list(parameters))[1].tobytes()


def center(image, size):
    """The size x size pixels in the middle. No copy."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
