"""OpenCV, loaded with this project's limits: it reads them from the environment when it is loaded.

Every module that decodes images imports `cv2` from here.
"""

import os

from data_prep.image_files import MAX_PIXELS

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # our own messages name the file

import cv2  # noqa: E402

__all__ = ["cv2"]
