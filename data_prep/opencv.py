"""Imports OpenCV with this project's limits, which it reads from the environment when imported.

Every module that decodes images imports `cv2` from here.
"""

import os

from data_prep.image_files import MAX_PIXELS

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our own messages name the file

import cv2  # noqa: E402

__all__ = ["cv2"]
