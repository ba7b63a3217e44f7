"""Image files of all kinds become uint8 BGR arrays; unusable ones are refused with a reason."""

import io
import os
import struct

import numpy as np
import pytest

from data_prep import image_files, images, lmdb_io

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


GRAY = tuple(rgb().convert("L").convert("RGB").getpixel((0, 0)))
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
        (file(rgb().convert("L"), "JPEG"), GRAY),
        (file(rgb().convert("LA"), "PNG"), GRAY),
        (file(rgb().quantize(8), "PNG"), RED),
        (file(alpha(), "PNG"), PALE),
        (file(DEEP, "PNG"), (64,) * 3),
        (rotated(), RED),
        (file(rgb(), "JPEG", quality=95, progressive=True), RED),
        (file(rgb(), "JPEG", quality=95, icc_profile=bytes(150000)), RED),
        (file(rgb(), "WEBP", quality=100), RED),
        (file(alpha(), "WEBP", lossless=True), PALE),
        (file(rgb(), "TIFF", compression="tiff_lzw"), RED),
        (file(DEEP, "TIFF"), (64,) * 3),
        (file(rgb().convert("RGBA"), "TIFF"), RED),
        (file(rgb().convert("RGBA"), "BMP"), RED),
        (file(rgb().quantize(8), "PNG", transparency=bytes([51] * 8)), PALE),
        (file(rgb().convert("1"), "PNG"), None),
    ],
    ids="jpeg png gif webp tiff bmp cmyk gray gray-alpha palette alpha 16-bit exif progressive "
    "profile webp-lossy webp-alpha tiff-lzw tiff-16-bit tiff-alpha bmp-32 palette-alpha "
    "1-bit".split(),
)
def test_kinds(data, expected):
    stored = (60, 40) if data == rotated() else (40, 60)
    header = image_files.header(io.BytesIO(data))
    assert (header.height, header.width) == stored and header.size == len(data)
    image = images.decode(data)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    if expected is None:  # dithered
        assert set(np.unique(image)) == {0, 255}
    else:
        assert np.abs(image[5, 5].astype(int) - expected[::-1]).max() <= 3


def turned(orientation):
    """PICTURE, 8 times as large, stored so that this EXIF orientation shows it upright."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # numbers of PIL.Image.Transpose
    picture = Image.fromarray(PICTURE.repeat(8, 0).repeat(8, 1))
    picture.paste((0, 0, 255), (0, 0, 160, 80))  # blue in one corner
    exif = Image.Exif()
    exif[0x112] = orientation
    if orientation > 1:
        picture = picture.transpose(Image.Transpose(back[orientation]))
    return file(picture, "JPEG", quality=95, exif=exif)


@pytest.mark.parametrize("scale", images.SCALES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_at_any_scale(orientation, scale):
    image = images.decode(turned(orientation), scale).astype(int)
    height, width = 320 // scale, 480 // scale
    assert image.shape == (height, width, 3)
    for y, x, color in ((0.1, 0.1, (0, 0, 255)), (0.1, 0.9, RED), (0.9, 0.1, GREEN)):
        seen = image[int(y * height), int(x * width)]
        assert np.abs(seen - color[::-1]).max() <= 12, (y, x)


def test_transparent_and_turned_is_refused():
    """No decoder here turns an image with transparency upright."""
    exif = Image.Exif()
    exif[0x112] = 3
    images.decode(file(rgb().convert("RGBA"), "PNG", exif=exif))  # opaque: no matter
    with pytest.raises(images.ImageError, match="save it upright"):
        images.decode(file(alpha(), "PNG", exif=exif))


@pytest.mark.parametrize(
    "size, box, scale",
    [(256, None, 1), (160, None, 2), (80, None, 4), (40, None, 8), (10, None, 8),
     (80, (9, 9, 160, 200), 2), (161, (9, 9, 160, 200), 1)],
)  # fmt: skip
def test_scale_of_decoding(size, box, scale):
    """At least the size wanted is left, and what is stored looks the same."""
    data = turned(6)
    header = image_files.header(io.BytesIO(data))
    assert images.decode_scale(header, size, box) == scale
    both = [images.resize(images.decode(data, s), size, "squeeze") for s in (1, scale)]
    assert np.abs(both[0].astype(int) - both[1]).mean() < 2
    png = image_files.header(io.BytesIO(file(rgb(), "PNG")))
    assert images.decode_scale(png, 16) == 1


def bomb():
    return file(Image.new("1", (9000, 9000)), "PNG")


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "empty"),
        (b"<html>not found</html>" * 9, "not an image"),
        (file(rgb(), "JPEG")[:-40], "cut short"),
        (file(rgb(), "PNG")[:-30], "cut short"),
        (bomb(), "9000 x 9000 pixels"),
        (file(rgb(), "JPEG")[:100], "JPEG file is cut short"),
        (file(rgb(), "PNG")[:20], "PNG file is cut short"),
        (file(rgb(), "GIF")[:-40], "cut short"),
        (file(rgb(), "WEBP")[:-40], "cut short"),
        (file(rgb(), "TIFF")[:-40], "cut short"),
        (file(alpha(), "TIFF"), "save it as PNG"),
        (file(rgb(), "TIFF")[:7], "TIFF file is cut short"),
        (file(rgb(), "BMP")[:-40], "cut short"),
        (b"%PDF-1.7 and so on", "neither JPEG, PNG, GIF, WebP, BMP nor TIFF"),
        (file(rgb(), "ICO"), "not an image"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 1 << 30, -(1 << 30)), "pixels"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">IIBB", 9, 9, 8, 77) + b"IEND", "damaged"),
        (b"\xff\xd8" + bytes(1 << 17), "damaged in its header"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08\0\x09\0\x09\x01\x01\0\0", "damaged in its header"),
    ],
    ids="empty html jpeg png bomb jpeg-head png-head gif webp tiff tiff-alpha tiff-head bmp pdf "
    "icon bmp-bomb png-damaged jpeg-damaged jpeg-sampling-0".split(),
)
def test_unusable(data, says, tmp_path):
    path = tmp_path / "photograph.jpg"
    path.write_bytes(data)
    with pytest.raises(images.ImageError, match=says):
        with image_files.open_plain(path) as file:
            image_files.header(file)
            images.decode(file.read())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_plain_files_are_opened(make, tmp_path):
    """A pipe without a writer must not block the build forever."""
    make(tmp_path / "photograph.jpg")
    with pytest.raises(images.ImageError, match="not a plain file|Is a directory"):
        image_files.open_plain(tmp_path / "photograph.jpg")


@pytest.mark.parametrize("path, says", [("/dev/zero", "not a plain"), ("/nowhere", "No such file")])
def test_devices_and_absent_files(path, says):
    with pytest.raises(images.ImageError, match=says):
        image_files.open_plain(path)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "film.jpg"
    with open(path, "wb") as sparse:
        sparse.truncate(image_files.LARGEST + 1)
    with pytest.raises(images.ImageError, match="more than 320 MB"):
        image_files.open_plain(path)


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


def test_margins_around_boxes():
    """The margin is a share of the box's width and height, clipped to the image."""
    assert images.grown((10, 20, 40, 8), 0.25) == (0, 18, 60, 12)
    assert images.grown((10, 20, 40, 8), 0) == (10, 20, 40, 8)
    assert images.crop(PICTURE, images.grown((10, 10, 20, 10), 1)).shape[:2] == (20 + 10, 50)


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


@pytest.mark.parametrize("encoding, worst", [("png", 0), ("jpg", 6), ("raw", 0)])
def test_datums(encoding, worst):
    """What is stored comes back, blue-green-red, with its label."""
    datum = lmdb_io.parse_datum(
        lmdb_io.image_datum(lmdb_io.stored(PICTURE, encoding), PICTURE.shape, encoding, 7)
    )
    again = lmdb_io.datum_image(datum)
    assert datum.label == 7 and datum.encoded == (encoding != "raw") and again.shape == (40, 60, 3)
    # but where two colors meet: JPEG halves the resolution of color
    assert np.abs(again.astype(int) - PICTURE)[:16].max() <= worst
