"""A small data set in CUB-200-2011's layout, and the commands run on it."""

import cv2
import numpy as np
import programs
from programs import ROOT

SPECIES = [
    line.split("\t")[0]
    for line in (ROOT / "data_prep/hierarchies/cub.tsv").read_text().splitlines()
    if not line.startswith("#")
][1:]
CLASSES = (1, 2, 4, 59, 60, 141)  # 1 and 2, 59 and 60 are of one family, 59 and 141 of one order
PER_CLASS = 4


def make(root, width=60, height=40):
    """Write the archive: CLASSES x PER_CLASS images, half of each class in train. Returns root.

    An image is blurred noise with a box (10, 5, 20, 30) of the class's own color.
    """
    rng = np.random.default_rng(1)
    lists = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    number = 0
    for label in CLASSES:
        for i in range(PER_CLASS):
            number += 1
            name = f"{SPECIES[label - 1]}/bird_{i}.jpg"
            image = cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), (width, height))
            image[5:35, 10:30] = color(label)
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
            for key, value in zip(lists, (name, label, i % 2, "10.0 5.0 20.0 30.0")):
                lists[key].append(f"{number} {value}")
    lists["classes"] = [f"{label} {SPECIES[label - 1]}" for label in CLASSES]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def color(label):
    return (label % 7 * 40, label % 5 * 60, 255 - label)


def run(name, *arguments, **more):
    """A command of data_prep, as programs.run starts it."""
    return programs.run(f"data_prep/{name}", *arguments, **more)


def refused(done, *words):
    """Assert that a command ended with one clear error, status 1 and no traceback, naming words."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "error: " in done.stderr
    for word in words:
        assert str(word) in done.stderr + done.stdout, (word, done.stderr)
