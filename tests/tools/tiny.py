"""A data set, a net and weights so small that every answer is known beforehand.

Image of class c: 8 x 8, black but for pixel c (row-major), white. The net's fc8_fine has a 1 at
pixel c of row c, so it answers the pixel that is lit; an image whose label is not its pixel is a
known mistake. fc9_coarse adds up the scores of a group's classes, and answers the group of the
pixel. Three levels: 6 classes, 3 groups of 2, 2 halves.
"""

import caffe
import cv2
import lmdb
import numpy as np
from caffe.proto import caffe_pb2

from data_prep.label_tree import Hierarchy
from tools.nets import head, losses, tables

SIDE = 8
LABELS = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0], [4, 2, 1], [5, 2, 1]])
TREE = Hierarchy(
    ("kind", "group", "half"),
    LABELS,
    [[f"kind {i}" for i in range(6)], ["a", "b", "c"], ["left", "right"]],
)


def write_lmdb(folder, datums):
    # Without waiting for the disk: what is read here again needs no protection from power failures.
    with (
        lmdb.open(str(folder), map_size=1 << 24, sync=False) as env,
        env.begin(write=True) as transaction,
    ):
        for i, datum in enumerate(datums):
            transaction.put(f"{i:08d}".encode(), datum.SerializeToString())


def image(pixel):
    """8 x 8 x 3 uint8 with one white pixel."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture.reshape(-1, 3)[pixel] = 255
    return picture


def data_set(folder, true, lit, split="test"):
    """LMDBs and hierarchy.tsv: record i has class true[i] and shows the pixel lit[i]."""
    folder.mkdir(exist_ok=True)
    write_lmdb(
        folder / f"{split}_images",
        (
            caffe_pb2.Datum(
                data=cv2.imencode(".png", image(pixel))[1].tobytes(), encoded=True, label=label
            )
            for pixel, label in zip(lit, true)
        ),
    )
    write_lmdb(
        folder / f"{split}_labels",
        (
            caffe_pb2.Datum(channels=3, height=1, width=1, float_data=LABELS[label], label=label)
            for label in true
        ),
    )
    (folder / "hierarchy.tsv").write_text(TREE.text())


def solver(folder, data, stages, batch=4, sizes=TREE.sizes, *, embedding=0, more="", **losses_of):
    """Path of a solver of the given stages; its net is the repository's head on the pixels.

    embedding: width of a trained layer between the two, 0 for none. more: text for the solver.
    losses_of: arguments of losses.net_losses.
    """
    net = caffe_pb2.NetParameter(name="tiny")
    for phase, split in ((caffe.TRAIN, "train"), (caffe.TEST, "test")):
        for top in ("data", "label"):
            kind = "images" if top == "data" else "labels"
            net.layer.add(
                name=top,
                type="Data",
                top=[top],
                include=[dict(phase=phase)],
                data_param=dict(
                    source=f"{data}/{split}_{kind}",
                    batch_size=batch,
                    backend=caffe_pb2.DataParameter.LMDB,
                ),
            )
    head.add_slice(net, len(sizes))
    if embedding:
        net.layer.add(
            name="embedding",
            type="InnerProduct",
            bottom=["data"],
            top=["embedding"],
            inner_product_param=dict(
                num_output=embedding, weight_filler=dict(type="gaussian", std=0.01)
            ),
        )
        net.layer.add(name="relu", type="ReLU", bottom=["embedding"], top=["feature"])
    else:
        net.layer.add(name="feature", type="Flatten", bottom=["data"], top=["feature"])
    net.layer.add(name="dropped", type="Dropout", bottom=["feature"], top=["dropped"])
    head.add_head(
        net,
        "feature",
        "dropped",
        sizes,
        dict(type="gaussian", std=0.1) if embedding else dict(type="constant"),
        losses.net_losses(tables.Labels(sizes, f"{data}/hierarchy.tsv"), **losses_of),
        False,
        diagnostics=bool(embedding),
        width=embedding or 3 * SIDE**2,
    )
    (folder / "tiny_train_val.prototxt").write_text(str(net))
    state = "".join(f'stage: "{stage}" ' for stage in stages)
    path = folder / f"tiny_{'_'.join(stages) or 'sm'}_solver.prototxt"
    path.write_text(
        f'net: "{folder}/tiny_train_val.prototxt"\n'
        f"train_state {{ {state}}}\ntest_state {{ {state}}}\n"
        f'base_lr: 0.01 lr_policy: "fixed" snapshot_prefix: "{folder}/model"\n{more}\n'
    )
    return path


def snapshot(folder, iteration, heads=1):
    """The two files of a snapshot, as the solver of `folder` would write them."""
    model = weights(folder / f"model_iter_{iteration}.caffemodel", heads)
    state = caffe_pb2.SolverState(iter=iteration, learned_net=str(model))
    (folder / f"model_iter_{iteration}.solverstate").write_bytes(state.SerializeToString())


def weights(path, heads=2, old=False):
    """A caffemodel with the first `heads` classifiers; old: in the format before 2015."""
    fine = np.zeros((6, 3, SIDE * SIDE), np.float32)
    fine[range(6), :, range(6)] = 1 / 3 / 255
    groups = np.array([LABELS[:, 1] == i for i in range(3)], np.float32)
    halves = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
    net = caffe_pb2.NetParameter(name="tiny")
    for level, matrix in enumerate([fine.reshape(6, -1), groups, halves][:heads], 1):
        if old:
            layer = net.layers.add(name=head.scores(level), type="INNER_PRODUCT")
        else:
            layer = net.layer.add(name=head.scores(level), type="InnerProduct")
        for array in (matrix, np.zeros(len(matrix), np.float32)):
            blob = layer.blobs.add(data=array.ravel())
            if old:
                blob.num, blob.channels, blob.height, blob.width = (1, 1, 1, *array.shape)[-4:]
            else:
                blob.shape.dim.extend(array.shape)
    path.write_bytes(net.SerializeToString())
    return path
