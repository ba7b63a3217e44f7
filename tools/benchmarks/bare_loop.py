"""Reads, decodes, resizes and encodes images, and nothing else: the reference for a build's speed.

python -m tools.benchmarks.bare_loop LIST SIZE JOBS, LIST a file of paths, one a line.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_prep import images
from data_prep.opencv import cv2


def main():
    paths = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    size, jobs = map(int, sys.argv[2:])

    def one(path):
        image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        images.encode(images.resize(image, size, "squeeze"), "jpg")

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, paths):
            pass


if __name__ == "__main__":
    main()
