#!/usr/bin/env python3
"""Draw small photographs of two families with two species each: draw_photos.py FOLDER."""

import sys
from pathlib import Path

import cv2
import numpy as np

SIDE, IMAGES = 64, 6

rng = np.random.default_rng(0)
for family in range(2):
    for species in range(2):
        folder = Path(sys.argv[1]) / f"family_{family}" / f"species_{family}{species}"
        folder.mkdir(parents=True)
        for i in range(IMAGES):
            image = rng.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
            image[:, :, family] += 120
            image[: SIDE // 2, :, 2] += np.uint8(120 * species)
            cv2.imwrite(str(folder / f"{i}.jpg"), image)
