"""Image files of all kinds become uint8 BGR arrays; unusable ones are told apart."""

import io

import numpy as np
import pytest

from data_prep import images

Image = pytest.importorskip("PIL.Image", reason="Pillow writes the files (matplotlib brings it)")

RED, GREEN = (200, 30, 10), (20, 180, 60)  # RGB
PICTURE = np.full((40, 60, 3), RED, np.uint8)
PICTURE[20:] = GREEN


def file(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb():
    return Image.fromarray(PICTURE)


def alpha():
    picture = rgb().convert("RGBA")
    picture.putalpha(Image.fromarray(np.full((40, 60), 51, np.uint8)))
    return picture


def rotated():
    """Stored lying on its side, with the EXIF tag that says so: upright it is PICTURE."""
    exif = Image.Exif()
    exif[0x112] = 6
    return file(rgb().rotate(90, expand=True), "JPEG", quality=95, exif=exif)


GREY = tuple(rgb().convert("L").convert("RGB").getpixel((0, 0)))
PALE = tuple(round(0.2 * value + 0.8 * 255) for value in RED)
DEEP = Image.fromarray(np.full((40, 60), 0x4000, np.uint16))


@pytest.mark.parametrize(
    "data, expected",
    [
        (file(rgb(), "JPEG", quality=95), RED),
        (file(rgb(), "PNG"), RED),
        (file(rgb(), "GIF"), RED),
        (file(rgb(), "WEBP", lossless=True), RED),
        (file(rgb(), "TIFF"), RED),
        (file(rgb(), "BMP"), RED),
        (file(rgb().convert("CMYK"), "JPEG", quality=95), RED),
        (file(rgb().convert("L"), "JPEG"), GREY),
        (file(rgb().convert("LA"), "PNG"), GREY),
        (file(rgb().quantize(8), "PNG"), RED),
        (file(alpha(), "PNG"), PALE),
        (file(DEEP, "PNG"), (64,) * 3),
        (rotated(), RED),
    ],
    ids="jpeg png gif webp tiff bmp cmyk grey grey-alpha palette alpha 16-bit exif".split(),
)
def test_kinds(data, expected):
    image = images.decode(data)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    assert np.abs(image[5, 5].astype(int) - expected[::-1]).max() <= 3


def bomb():
    return file(Image.new("1", (9000, 9000)), "PNG")


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "empty"),
        (b"<html>not found</html>" * 9, "not an image"),
        (file(rgb(), "JPEG")[:-40], "cut short"),
        (file(rgb(), "PNG")[:-30], "cut short"),
        (bomb(), "pixels"),
    ],
    ids="empty html jpeg png bomb".split(),
)
def test_unusable(data, says):
    with pytest.raises(images.ImageError, match=says):
        images.decode(data)


def test_a_whole_file_with_a_thumbnail_and_a_tail():
    """Markers inside a JPEG's header and bytes after its end don't make it look cut short."""
    exif = Image.Exif()
    exif[0x10E] = "thumbnail \xff\xd8 \xff\xda \xff\xd9"
    images.decode(file(rgb(), "JPEG", exif=exif) + b"\0" * 50)


def test_a_strip_is_refused_before_it_fills_the_memory():
    strip = np.zeros((1, 20000, 3), np.uint8)
    assert images.resize(strip, 32, "squeeze").shape == (32, 32, 3)
    with pytest.raises(images.ImageError, match="too long and narrow"):
        images.resize(strip, 32, "shorter")


@pytest.mark.parametrize("how, shape", [("squeeze", (32, 32)), ("shorter", (32, 48))])
@pytest.mark.parametrize("scale", [1, 4])
def test_resize(how, shape, scale):
    image = images.resize(np.repeat(np.repeat(PICTURE, scale, 0), scale, 1)[:, ::], 32, how)
    assert image.shape[:2] == shape
    assert np.array_equal(image[0, 0], RED) and np.array_equal(image[-1, -1], GREEN)


def test_shrinking_averages():
    """One pixel of 8 x 8 set: nothing is skipped, as interpolation between few pixels would."""
    image = np.zeros((128, 64, 3), np.uint8)
    image[::8, ::8] = 255
    small = images.resize(image, 16, "squeeze")
    assert abs(float(small.mean()) - float(image.mean())) < 1


@pytest.mark.parametrize(
    "box, shape",
    [((10, 5, 20, 30), (30, 20)), ((-5, -5, 20, 20), (15, 15)), ((50, 30, 100, 100), (10, 10))],
)
def test_crop(box, shape):
    assert images.crop(PICTURE, box).shape[:2] == shape


def test_footer():
    assert np.array_equal(images.without_footer(PICTURE, 3), PICTURE[:-3])
    assert np.array_equal(images.without_footer(PICTURE, 0), PICTURE)
    with pytest.raises(images.ImageError, match="pixels high"):
        images.without_footer(PICTURE, len(PICTURE))


@pytest.mark.parametrize("box", [(-50, 0, 30, 10), (0, -50, 10, 30)])
def test_crop_beyond_the_upper_left(box):
    with pytest.raises(images.ImageError, match="outside"):
        images.crop(PICTURE, box)


def test_crop_outside():
    with pytest.raises(images.ImageError, match="outside"):
        images.crop(PICTURE, (100, 100, 10, 10))


@pytest.mark.parametrize("encoding, worst", [("png", 0), ("jpg", 6)])
def test_encode(encoding, worst):
    again = images.decode(images.encode(PICTURE, encoding))
    # but where two colours meet: JPEG halves the resolution of colour
    assert np.abs(again.astype(int) - PICTURE)[:16].max() <= worst
