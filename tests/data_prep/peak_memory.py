"""Decode image files and print, as JSON lines, what it took: peak_memory.py SCALE FILE...

Bytes above what the process had before; the file's own are part of it.
"""

import ctypes
import gc
import json
import sys

from data_prep import image_files, images


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


def measured(path, scale):
    """{"plan", "peak", "reason"} of one file, decoded as a build does."""
    plan, reason = None, None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins again
    before = status("VmRSS")
    try:
        with image_files.open_plain(path) as file:
            plan = image_files.header(file).check_memory(scale)
            images.decode(file.read(), scale)
    except images.ImageError as error:
        reason = str(error)
    return {"plan": plan, "peak": status("VmHWM") - before, "reason": reason}


if __name__ == "__main__":
    scale, *paths = sys.argv[1:]
    images.decode(images.encode(images.np.zeros((9, 9, 3), "uint8"), "png"))  # loads the decoder
    for path in paths:
        print(json.dumps(measured(path, int(scale))), flush=True)
