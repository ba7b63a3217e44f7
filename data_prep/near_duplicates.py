"""Measures the similarity of two drawings, for data sets that hold one artwork under several names.

Both images are blurred and reduced to 32 x 32, the background (the median color) is taken off,
and what remains is the "ink". The ink distance is sum |a - b| / (sum |a| + sum |b|), the smallest
over shifts of up to one of the 32 pixels: 0 for the same drawing, 1 for drawings without any
overlap. Unlike a mean difference, it does not rate two cards as similar because both are mostly
white.
"""

import numpy as np

from data_prep.opencv import cv2

SIDE, SHIFT = 32, 1


def ink(image):
    """float32 (SIDE x SIDE x 3) of an image (uint8 height x width x 3)."""
    sigma = min(image.shape[:2]) / (2 * SIDE)
    small = cv2.resize(
        cv2.GaussianBlur(image, (0, 0), sigma), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    small = small.astype(np.float32)
    return small - np.median(small.reshape(-1, 3), axis=0)


def ink_distances(one, others):
    """Ink distances (float array of n, 0..1) of one ink to n others (n x SIDE x SIDE x 3)."""
    inner = slice(SHIFT, SIDE - SHIFT)
    fixed = one[inner, inner]
    best = np.ones(len(others), np.float32)
    for dy in range(2 * SHIFT + 1):
        for dx in range(2 * SHIFT + 1):
            moved = others[:, dy : dy + SIDE - 2 * SHIFT, dx : dx + SIDE - 2 * SHIFT]
            amount = np.abs(fixed).sum() + np.abs(moved).sum(axis=(1, 2, 3)) + 1e-6
            best = np.minimum(best, np.abs(moved - fixed).sum(axis=(1, 2, 3)) / amount)
    return best
