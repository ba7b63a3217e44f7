"""Measures predictions of photographs, against the bare net."""

import tempfile
from pathlib import Path

import numpy as np

from data_prep.common import prototxt, text_table
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.opencv import cv2
from tools import caffe_errors
from tools.nets import tables
from tools.recognition import photographs, recognize
from tools.recognition.engines import CaffeEngine
from tools.recognition.model import Model
from tools.recognition.preprocessing import Preprocessing

from .timing import add_runs, alternating_medians, positive

DATASET = "cub"
HEIGHT, WIDTH = 375, 500  # of drawn photographs, CUB-200-2011's usual size


def draw(folder, count):
    """Write JPEGs of smooth noise, about 60 KB each, into a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (HEIGHT // 5, WIDTH // 5, 3), dtype=np.uint8)
        image = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), image)


def model_of(name, folder):
    """Model of a network of tools/nets/tables.py for CUB-200-2011, with random weights."""
    from tools.pycaffe import caffe, caffe_pb2

    path = f"prototxt/{DATASET}_{name}_deploy.prototxt"
    message = prototxt.read(path, caffe_pb2.NetParameter())
    with caffe_errors.refusals(f"Caffe refuses {path}"):
        net = caffe.Net(path, caffe.TEST)
        rng = np.random.default_rng(0)
        for blobs in net.params.values():  # He et al. 2015: activations keep their size
            shape = tuple(blobs[0].shape)
            blobs[0].data[...] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        net.save(str(folder / "weights.caffemodel"))
    hierarchy = Hierarchy.read(TABLES / f"{DATASET}.tsv")
    side = tables.NETS[name].crop
    stored = tables.NETS[name].stored
    outputs = {0: "prob_fine"}
    for level in range(1, len(hierarchy.levels)):
        outputs[level] = f"prob_fc{8 + level}_coarse"
    prepared = Preprocessing(squeeze=(stored,) * 2, crop=(side,) * 2, mean=(104.0, 117.0, 123.0))
    engine = CaffeEngine(message, path, folder / "weights.caffemodel")
    return Model(hierarchy, prepared, outputs, engine, path)


def run(options):
    """Time tools/predict.py's work on photographs, from the files to the answers, on the CPU, and
    the net alone on as many batches of images that are in memory already.

    Weights are random, which does not affect the time. The number of threads of the net is that of
    OMP_NUM_THREADS, by default all processors.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        place = options.photographs
        if place is None:
            place = folder / "photographs"
            place.mkdir()
            draw(place, options.count)
        found = photographs.find([place])[: options.count]
        model = model_of(options.net, folder)
        batch = np.zeros((options.batch, 3, *model.preprocessing.crop), np.float32)
        batch += np.random.default_rng(0).normal(0, 60, batch.shape)
        batches, rest = divmod(len(found), options.batch)
        if rest:
            raise UserError(f"{len(found)} photographs are no multiple of --batch {options.batch}")

        def bare():
            for _ in range(batches):
                model.engine.compute(batch, list(model.outputs.values()), whole=True)

        def predict():
            parts = recognize.stream(
                model, found, rule="joint", top=3, batch=options.batch, jobs=options.jobs
            )
            if sum(len(answers) for answers, _ in parts) != len(found):
                raise UserError(f"{place} has photographs that can't be used")

        seconds = alternating_medians([bare, predict], options.runs)
    rates = [len(found) / each for each in seconds]
    rows = [("", "images/s", "of the bare net")]
    for name, rate in zip(("bare net", "predict"), rates):
        rows.append((name, f"{rate:.1f}", f"{rate / rates[0]:.0%}"))
    print(
        f"{options.net}, {len(found)} photographs, batch {options.batch}: medians of "
        f"{options.runs} runs"
    )
    print("\n".join(text_table.aligned(rows, right={1, 2})))


def add_options(parser):
    add_runs(parser, 3)
    parser.add_argument(
        "--net", choices=list(tables.NETS), default="squeezenet", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--photographs", type=Path, metavar="FOLDER", help="(default: drawn ones, 500 x 375)"
    )
    parser.add_argument(
        "--count", type=positive, default=256, help="photographs (default: %(default)s)"
    )
    parser.add_argument("--batch", type=positive, default=32, help="(default: %(default)s)")
    parser.add_argument(
        "--jobs", type=positive, default=None, help="decoding threads (default: predict.py's)"
    )
