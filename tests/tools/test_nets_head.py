"""The head of every committed net, variant and phase, against Figs. 3 and 4 of the paper."""

import functools
import json
from pathlib import Path

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from tools.nets import files, rules, tables

ROOT = Path(__file__).resolve().parents[2]
FEATURES = {
    "alexnet": "fc7",
    "googlenet": "pool5/7x7_s1",
    "vgg16": "fc7",
    "bcnn": "bilinear",
    "squeezenet": "pool9",
}
MAPS = {"googlenet", "squeezenet"}  # networks whose feature is C x 1 x 1
DROPOUT = {"alexnet": 0.5, "googlenet": 0.4, "vgg16": 0.5, "bcnn": None, "squeezenet": 0.5}
CROPS = {"alexnet": 227, "googlenet": 224, "vgg16": 224, "bcnn": 448, "squeezenet": 227}
FOLDERS = {"bcnn": "{}_512", ("cards", "alexnet"): "{}_256", ("cards", "googlenet"): "{}_256"}
PAPER = {  # the paper's variants
    "sm": "",
    "sm_glm": "glm",
    "csm": "csm",
    "csm_glm": "csm glm",
    "sc_csm": "csm skip",
    "ours": "csm skip glm",
    "sm_contrastive": "contrastive",
    "sm_triplet": "triplet",
    "sm_center": "center",
    "sm_minmax": "minmax",
}
# The paper names them in Section II and in its tables; the last with a classifier of the feature
# for each level, as its authors have.
STRUCTURED = {"sm_gtl": "gtl", "bgl": "csm flat bgl"}
PHASES = {"train": caffe.TRAIN, "test": caffe.TEST}
# data set, network, stage of the images
SETTINGS = [
    (dataset, net, box)
    for dataset, net in tables.GRID
    for box in (["", "bbox"] if tables.DATASETS[dataset].boxes else [""])
]


@functools.cache
def whole(dataset, net, variant):
    """The committed net, or the one with a further variant."""
    name = f"{dataset}_{net}_train_val.prototxt"
    if variant in tables.COMMITTED:
        text = (ROOT / "prototxt" / name).read_text()
    else:
        text = files.file_texts(
            tables.DATASETS[dataset], tables.NETS[net], "nets", (variant,), name=dataset
        )[name]
    return text_format.Parse(text, caffe_pb2.NetParameter())


def layers_of(dataset, net, variant, phase, box=""):
    """{name: layer} of one state; every name occurs once."""
    stages = [*tables.STAGES[variant], *([box] if box else [])]
    chosen = rules.select(whole(dataset, net, variant), PHASES[phase], stages).layer
    layers = {layer.name: layer for layer in chosen}
    assert len(layers) == len(chosen)
    return layers


@pytest.fixture(params=SETTINGS, ids=lambda setting: "-".join(filter(None, setting)))
def setting(request):
    return request.param


def test_the_grid_is_the_papers():
    """Tables I to III: three data sets in both settings, four networks; and the small extras."""
    paper = {
        (dataset, net, box)
        for dataset in ("cars", "aircraft", "cub")
        for net in ("alexnet", "googlenet", "vgg16", "bcnn")
        for box in ("", "bbox")
    }
    assert paper < set(SETTINGS)
    variants = {variant: tuple(stages.split()) for variant, stages in PAPER.items()}
    variants |= {variant: tuple(stages.split()) for variant, stages in STRUCTURED.items()}
    assert variants.items() <= tables.STAGES.items()
    assert set(tables.COMMITTED) == set(variants)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("variant", tables.STAGES)
def test_head(setting, variant, phase):
    dataset, net, box = setting
    layers = layers_of(dataset, net, variant, phase, box)
    sizes, stages = tables.DATASETS[dataset].sizes, tables.STAGES[variant]
    h = len(sizes)
    heads = ["fc8_fine", "fc9_coarse", "fc10_coarse"][:h]
    losses = ["loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"][:h]
    trained = h if "csm" in stages else 1
    rows = [tables.LOSSES[stage] for stage in stages if stage in tables.LOSSES]
    marginals = [row for row in rows if row.marginals]

    # labels
    assert list(layers["labels"].bottom) == ["label"]
    assert list(layers["labels"].top) == [f"label_{j}" for j in range(1, h + 1)]
    assert layers["labels"].slice_param.axis == 1

    # dropout does not touch the feature
    feature = dropped = FEATURES[net]
    dropouts = [
        layer for layer in layers.values() if layer.type == "Dropout" and feature in layer.bottom
    ]
    assert len(dropouts) == (DROPOUT[net] is not None)
    for dropout in dropouts:
        (dropped,) = dropout.top
        assert dropped != feature
        assert dropout.dropout_param.dropout_ratio == pytest.approx(DROPOUT[net])
    if "skip" in stages and net in MAPS:
        assert list(layers["feature_vector"].bottom) == [dropped]

    # classifiers: who reads whom
    for j, name in enumerate(heads):
        if j >= trained:
            assert name not in layers and losses[j] not in layers
            continue
        layer = layers[name]
        assert layer.type == "InnerProduct" and list(layer.top) == [name]
        assert layer.inner_product_param.num_output == sizes[j]
        unit = net == "bcnn" and j == 0
        assert [p.lr_mult for p in layer.param] == ([1000, 1000] if unit else [10, 20])
        assert [p.decay_mult for p in layer.param] == pytest.approx([0.01 if unit else 1, 0])
        if "fgon" in stages:
            assert list(layer.bottom) == [("part_" if j == 0 else "parts_") + losses[j][5:]]
        elif j == 0 or "flat" in stages:
            assert list(layer.bottom) == [dropped]
        elif "skip" in stages:
            joined = layers[layer.bottom[0]]
            assert joined.type == "Concat"
            assert list(joined.bottom) == ["feature_vector" if net in MAPS else dropped] + heads[:j]
        else:
            assert list(layer.bottom) == [heads[j - 1]]
        accuracy = layers.get(losses[j].replace("loss", "accuracy"))
        if marginals and phase == "train":
            assert losses[j] not in layers and accuracy is None
            continue
        loss = layers[losses[j]]
        weight = 0 if any(row.scored for row in rows) else 1
        assert loss.type == "SoftmaxWithLoss" and list(loss.loss_weight) == [weight]
        assert list(loss.bottom) == [name, f"label_{j + 1}"]
        assert (accuracy is not None) == (phase == "test")
        if accuracy:
            assert accuracy.type == "Accuracy" and list(accuracy.bottom) == list(loss.bottom)

    # parts of the feature: all of it, and no gradient from coarse classifiers into finer parts
    assert ("parts" in layers) == ("fgon" in stages)
    if "fgon" in stages:
        parts, width = layers["parts"], tables.NETS[net].width
        assert list(parts.bottom) == [dropped] and len(parts.top) == h
        cuts = [0, *parts.slice_param.slice_point, width]
        assert len(cuts) == h + 1 and max(np.diff(cuts)) - min(np.diff(cuts)) <= 1
        for j in range(1, h):
            joined = layers[heads[j].replace("fc", "parts_fc")]
            assert list(joined.bottom) == list(parts.top)[j::-1]
            assert list(joined.propagate_down) == [True] + [False] * j

    # tests read probabilities of the model, in place
    for row in tables.LOSSES.values():
        name = f"{row.name}_marginals"
        assert (name in layers) == (row in marginals and phase == "test")
        if name in layers:
            assert list(layers[name].bottom) == list(layers[name].top) == heads
            folder = f"data/{FOLDERS.get((dataset, net), FOLDERS.get(net, '{}'))}"
            folder = folder.format("_".join(filter(None, (dataset, box))))
            given = json.loads(layers[name].python_param.param_str)
            assert given == {"hierarchy": f"{folder}/hierarchy.tsv"}
            consumers = [
                layer.name for layer in layers.values() if heads[0] in layer.bottom
            ]  # a second one before it would make it another blob in Caffe
            assert consumers[0] == name

    # the large-margin loss
    assert ("glm" in layers) == ("glm" in stages and phase == "train")
    if "glm" in layers:
        glm = layers["glm"]
        assert list(glm.bottom) == [feature] + list(layers["labels"].top)
        weight = 0.2 if (dataset, net) == ("cards", "squeezenet") else 0.8
        assert list(glm.loss_weight) == pytest.approx([weight])
        assert (glm.python_param.module, glm.python_param.layer) == (
            "python_layers.glm_loss",
            "GLMLossLayer",
        )
        assert json.loads(glm.python_param.param_str) == {
            "k": 1,
            "margins": [1] * h,
            "within_gradient": "paper",
            "normalize": True,
            "scale": 0.1 if net == "bcnn" else 2.5,
        }

    # every loss of the table
    blobs = {
        tables.FEATURE: [feature],
        tables.FINE_SCORES: heads[:1],
        tables.ALL_SCORES: heads,
        tables.ATTRIBUTES: [],
        tables.FINE_LABEL: ["label_1"],
        tables.ALL_LABELS: list(layers["labels"].top),
    }
    for name, row in tables.LOSSES.items():
        assert (name in layers) == (name in stages and phase == "train")
        if name in layers:
            loss = layers[name]
            assert list(loss.bottom) == [blob for kind in row.reads for blob in blobs[kind]]
            pair = tables.STRENGTHS.get((dataset, net), {})
            own = pair.get(name, tables.NETS[net].strengths.get(name))
            weight = row.weight if own is None or own.weight is None else own.weight
            assert loss.loss_weight[0] == pytest.approx(weight)
            assert (loss.python_param.module, loss.python_param.layer) == (
                f"python_layers.{name}_loss",
                row.layer,
            )
            assert [p.lr_mult for p in loss.param] == ([0] if name == "center" else [])

    # auxiliary classifiers
    auxiliary = [f"loss{i}/{kind}" for i in (1, 2) for kind in ("classifier_fine", "loss_fine")]
    assert [name in layers for name in auxiliary] == [net == "googlenet" and phase == "train"] * 4
    for name in auxiliary[1::2] if phase == "train" and net == "googlenet" else ():
        assert layers[name].bottom[1] == "label_1"
        assert list(layers[name].loss_weight) == pytest.approx([0.3])

    # every top that no layer reads is a loss or an accuracy
    read = {blob for layer in layers.values() for blob in layer.bottom}
    loose = {blob for layer in layers.values() for blob in layer.top} - read
    metrics = tuple(f"{name}_loss" for name in tables.LOSSES)
    assert all(blob.startswith(("loss", "accuracy_", *metrics)) for blob in loose), loose


@pytest.mark.parametrize("phase", PHASES)
def test_data_layers(setting, phase):
    dataset, net, box = setting
    folder = FOLDERS.get((dataset, net), FOLDERS.get(net, "{}")).format(
        "_".join(filter(None, (dataset, box)))
    )
    layers = layers_of(dataset, net, "ours", phase, box)
    images, labels = layers["data"], layers["label"]
    assert images.data_param.source == f"data/{folder}/{phase}_images"
    assert labels.data_param.source == f"data/{folder}/{phase}_labels"
    assert images.data_param.batch_size == labels.data_param.batch_size
    assert list(images.transform_param.mean_value) == [104, 117, 123]
    assert images.transform_param.crop_size == (
        144 if (dataset, net) == ("cards", "squeezenet") else CROPS[net]
    )
    assert images.transform_param.mirror == (phase == "train" and tables.DATASETS[dataset].mirror)
    assert not labels.HasField("transform_param")
    kinds = [layer.type for layer in layers.values()]
    assert kinds.count("Data") == 2 and not kinds.count("Input")


def test_rules_choose_as_caffe_does(tmp_path):
    """rules.select against Caffe's own Net, on all combinations of two stages, phases and rules."""
    net = caffe_pb2.NetParameter()
    net.layer.add(
        name="data", type="Input", top=["data"], input_param=dict(shape=[dict(dim=[1, 1])])
    )
    cases = [
        dict(),
        dict(include=[dict(phase=0)]),
        dict(include=[dict(phase=1, stage=["a"])]),
        dict(include=[dict(stage=["a", "b"])]),
        dict(include=[dict(stage=["a"], not_stage=["b"])]),
        dict(include=[dict(not_stage=["a", "b"])]),
        dict(include=[dict(min_level=1)]),
        dict(include=[dict(max_level=-1)]),
        dict(include=[dict(min_level=-1, max_level=0)]),
        dict(include=[dict(stage=["a"]), dict(phase=1)]),
        dict(exclude=[dict(phase=0)]),
        dict(exclude=[dict(stage=["b"]), dict(not_stage=["a"])]),
    ]
    for number, case in enumerate(cases):
        net.layer.add(name=f"l{number}", type="Power", bottom=["data"], top=[f"l{number}"], **case)
    path = tmp_path / "net.prototxt"
    path.write_text(str(net))
    for phase in PHASES.values():
        for stages in ([], ["a"], ["b"], ["a", "b"]):
            ours = [layer.name for layer in rules.select(net, phase, stages).layer]
            theirs = [
                name
                for name in caffe.Net(str(path), phase, stages=stages)._layer_names
                if "split" not in name
            ]
            assert ours == theirs
