"""Drawn photographs, the data set that build_lmdb.py makes of them, and a small trained net for it.

Two groups of two kinds; a third level has one class. The net is a convolution, the average of its
maps and the repository's head, with weights as the fillers leave them; its answers depend on all
that preprocessing does.
"""

from dataclasses import dataclass
from pathlib import Path

import caffe
import cv2
import numpy as np
import programs
from caffe.proto import caffe_pb2

from tools import solver_net
from tools.nets import head, losses, tables

SIDE, CROP = 32, 24
SHAPES = [(40, 52), (90, 70), (33, 33), (200, 120)]  # height, width
KINDS = [("group a", "kind 0"), ("group a", "kind 1"), ("group b", "kind 2"), ("group b", "kind 3")]
MEAN = (104, 117, 123)


@dataclass(frozen=True)
class PhotoSet:
    """Paths of a built data set and of the solver of a net for it."""

    folder: Path
    photographs: Path
    data: Path
    solver: Path
    weights: Path

    def listed(self, split="test"):
        """[(key, path, fine label)] of the records of a split."""
        lines = (self.data / f"{split}.tsv").read_text().splitlines()[1:]
        rows = [line.split("\t") for line in lines]
        return [(row[0], self.photographs / row[1], int(row[2])) for row in rows]


def photograph(seed, height, width):
    """uint8 height x width x 3: smooth noise, so that a JPEG of it is close to it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def draw(folder, suffix=".png", each=4):
    """Write the photographs, `each` of every kind; returns {path: box}."""
    boxes = {}
    for number, (group, kind) in enumerate(KINDS):
        (folder / group / kind).mkdir(parents=True)
        for i in range(each):
            height, width = SHAPES[(number + i) % len(SHAPES)]
            path = folder / group / kind / f"photo {i}{suffix}"
            cv2.imwrite(str(path), photograph(10 * number + i, height, width))
            boxes[path] = (3 + i, 2, width - 9, height - 7 - number)
    return boxes


def build(folder, *options, boxes=None):
    """Build folder/data of folder/photos, from a table where the boxes {path: box} are given."""
    photos = folder / "photos"
    reader = ["folder", "--test-share", "0.5"]
    if boxes:
        lines = ["path,kind,group,split,x,y,w,h"]
        for i, (path, box) in enumerate(boxes.items()):
            group, kind, name = path.relative_to(photos).parts
            split = ("train", "test")[i % 2]
            lines.append(f"{group}/{kind}/{name},{kind},{group},{split},{','.join(map(str, box))}")
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
        reader = ["table", "--table", str(folder / "table.csv"), "--bbox"]
    else:
        reader += ["--levels", "kind,group"]
    arguments = (*reader, "--root", photos, "--out", folder / "data", "--size", SIDE, *options)
    done = programs.run("data_prep/build_lmdb.py", *arguments)
    assert done.returncode == 0, done.stderr
    return folder / "data"


def net(data, mirror=True, **transform):
    """The NetParameter of a train_val file that reads the LMDBs in the folder `data`."""
    message = caffe_pb2.NetParameter(name="photo")
    transform = dict(crop_size=CROP, mean_value=MEAN) | transform
    for phase, split in ((caffe.TRAIN, "train"), (caffe.TEST, "test")):
        more = dict(mirror=True) if mirror and phase == caffe.TRAIN else {}
        for top, kind in (("data", "images"), ("label", "labels")):
            message.layer.add(
                name=top,
                type="Data",
                top=[top],
                include=[dict(phase=phase)],
                transform_param=dict(**transform, **more) if top == "data" else {},
                data_param=dict(
                    source=f"{data}/{split}_{kind}",
                    batch_size=2,
                    backend=caffe_pb2.DataParameter.LMDB,
                ),
            )
    head.add_slice(message, 2)
    filler = dict(type="gaussian", std=0.02)
    message.layer.add(
        name="conv",
        type="Convolution",
        bottom=["data"],
        top=["conv"],
        convolution_param=dict(num_output=8, kernel_size=[5], stride=[3], weight_filler=filler),
    )
    message.layer.add(name="relu", type="ReLU", bottom=["conv"], top=["conv"])
    message.layer.add(
        name="pool",
        type="Pooling",
        bottom=["conv"],
        top=["pool"],
        pooling_param=dict(pool=caffe_pb2.PoolingParameter.AVE, kernel_size=3, stride=3),
    )
    message.layer.add(
        name="embedding",
        type="InnerProduct",
        bottom=["pool"],
        top=["embedding"],
        inner_product_param=dict(num_output=16, weight_filler=dict(type="xavier")),
    )
    message.layer.add(name="feature", type="ReLU", bottom=["embedding"], top=["feature"])
    message.layer.add(name="dropped", type="Dropout", bottom=["feature"], top=["dropped"])
    head.add_head(
        message,
        "feature",
        "dropped",
        (4, 2),
        dict(type="gaussian", std=0.3),
        losses.net_losses(tables.Labels((4, 2), f"{data}/hierarchy.tsv")),
        False,
    )
    return message


def solver(folder, data, stages=("csm", "skip", "glm"), **more):
    """(path of a solver, path of its snapshot's weights)."""
    folder.mkdir(exist_ok=True)
    (folder / "photo_train_val.prototxt").write_text(str(net(data, **more)))
    state = "".join(f'stage: "{stage}" ' for stage in stages)
    path = folder / "photo_ours_solver.prototxt"
    path.write_text(
        f'net: "{folder}/photo_train_val.prototxt"\n'
        f"train_state {{ {state}}}\ntest_state {{ {state}}}\n"
        f'base_lr: 0.01 lr_policy: "fixed" snapshot_prefix: "{folder}/model"\n'
    )
    caffe.set_random_seed(7)
    scoring = solver_net.scoring_net(solver_net.read_solver(path), "test", 1)
    weights = folder / "model_iter_1.caffemodel"
    _filled(scoring.net).save(str(weights))
    state = caffe_pb2.SolverState(iter=1, learned_net=str(weights))
    (folder / "model_iter_1.solverstate").write_bytes(state.SerializeToString())
    return path, weights


def _filled(message):
    """caffe.Net with the values of its fillers."""
    from data_prep.common import prototxt

    with prototxt.as_file(message) as path:
        return caffe.Net(path, caffe.TEST)


def make(folder, *options, boxes=False, suffix=".png", each=4, **more):
    """A PhotoSet in an empty folder. options: of build_lmdb.py; more: of `solver`."""
    found = draw(folder / "photos", suffix, each)
    data = build(folder, *options, boxes=found if boxes else None)
    path, weights = solver(folder / "net", data, **more)
    return PhotoSet(folder, folder / "photos", data, path, weights)
