"""Classify photographs with the files of this folder: python example.py PHOTO ...

Needs numpy and opencv-python (4 or 5); onnxruntime computes if it is installed.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent
LEVELS = json.loads((FOLDER / "labels.json").read_text("utf-8"))["levels"]
PIXELS = json.loads((FOLDER / "preprocessing.json").read_text("utf-8"))


def pixels(path, size):
    """uint8, height x width x 3, blue-green-red, upright, of an image file."""
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        sys.exit(f"{path} is not an image")
    if data[:2].tobytes() == b"\xff\xd8":  # JPEG: large ones are decoded at 1/8, 1/4 or 1/2
        for scale in (8, 4, 2):
            if min(image.shape[:2]) >= size * scale:
                return cv2.imdecode(data, getattr(cv2, f"IMREAD_REDUCED_COLOR_{scale}"))
    return image


def network_input(path):
    """float32, 3 x height x width, of an image file."""
    image = pixels(path, PIXELS["squeeze"][0] if "squeeze" in PIXELS else PIXELS["shorter"])
    old = image.shape[:2]
    ratio = PIXELS.get("shorter", 0) / min(old)
    new = PIXELS.get("squeeze") or [max(PIXELS["shorter"], round(side * ratio)) for side in old]
    if any(2 * small < large for small, large in zip(new, old)):  # areas are averaged
        least = [min(sides) for sides in zip(new, old)]
        image = cv2.resize(image, least[::-1], interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
    (height, width), (top, left) = PIXELS["crop"], np.subtract(new, PIXELS["crop"]) // 2
    middle = image[top : top + height, left : left + width].astype(np.float32)
    return ((middle - np.float32(PIXELS["mean"])) * np.float32(PIXELS["scale"])).transpose(2, 0, 1)


def probabilities(images, outputs):
    """[float32, N x classes] of images, N x 3 x height x width."""
    model = str(FOLDER / "model.onnx")
    try:
        import onnxruntime
    except ImportError:
        net = cv2.dnn.readNetFromONNX(model)
        net.setInput(images)
        return net.forward(outputs)
    return onnxruntime.InferenceSession(model).run(outputs, {PIXELS["input"]: images})


paths = sys.argv[1:] or sys.exit(__doc__)
outputs = [level["output"] for level in LEVELS if "output" in level]
found = dict(zip(outputs, probabilities(np.stack([*map(network_input, paths)]), outputs)))
for number, path in enumerate(paths):
    print(path)
    below = {}
    for level in LEVELS:
        if "output" in level:
            values = found[level["output"]][number].ravel()
            best, sure = int(values.argmax()), f"  {values.max():.1%}"
        else:
            best, sure = below["parents"][best], ""  # of a level without a classifier of its own
        print(f"  {level['name']}: {level['classes'][best]}{sure}")
        below = level
