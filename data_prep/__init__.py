"""From raw archives to the LMDBs that Caffe trains on, with their label trees."""

import os

# OpenCV reads these when it is first imported, so they are set before any module here can do that.
# Larger images are refused, because a few bytes can declare gigabytes: 2**26 pixels are 200 MB
# decoded, more than any camera of the data sets takes.
MAX_PIXELS = 1 << 26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what it says of files, we say with their name
