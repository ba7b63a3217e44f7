"""Small photographs of records as data URIs, each read once, through the hardened decoder."""

import base64

from data_prep import pictures
from data_prep.common import progress
from data_prep.opencv import cv2
from tools import evaluated

SIDE = 76  # pixels: the longer side
QUALITY = 60  # of JPEG


def uri(image):
    """data: URI of a small JPEG of an image, uint8 height x width x 3, BGR."""
    small = pictures.fitted(image, SIDE)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def uris(lmdb, keys, rows):
    """{row: data URI} of the records of an LMDB. keys: N strings; rows: ints, repeated or not."""
    rows = sorted(set(rows))
    images = evaluated.read_images(lmdb, [str(keys[row]) for row in rows]) if rows else ()
    shown = progress.each(images, "report", "photographs", len(rows))
    return {row: uri(image) for row, image in zip(rows, shown)}
