"""tools/graft.py on small nets: all kinds of features, inputs, and layers after the feature."""

import json
import subprocess
from pathlib import Path

import caffe
import nets_data
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from commands import ROOT
from google.protobuf import text_format
from graft_nets import (
    AUXILIARY,
    CLASSIFIER,
    CONV,
    DROP,
    FC,
    INPUT,
    MINI,
    ONE,
    OUTPUTS,
    RELU,
    SIDE,
    V0,
    V1,
    backbone,
    data_layers,
    graft,
    replaced,
    set_up_in_child,
    written,
)

from data_prep.common.errors import UserError
from tools.nets import cut, foreign, grafted, graph, sources, tables


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository with a data set of 12 -> 4 classes in data/."""
    monkeypatch.chdir(tmp_path)
    nets_data.build(tmp_path / "data", "mine", ("plant", "genus"), (12, 4), SIDE, train=8, test=4)
    return tmp_path


@pytest.fixture
def run(repository):
    return graft


@pytest.fixture(scope="module", autouse=True)
def once():
    """Caffe is asked for the shapes of the same layers once: most nets differ after them."""
    ask, known = foreign.shapes, {}

    def shapes(layers, inputs, name, fillers=None):
        key = (str(layers), str(inputs), name, str(fillers))
        if key not in known:
            known[key] = ask(layers, inputs, name, fillers)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "shapes", shapes)
        yield


@pytest.fixture(autouse=True)
def _without_starting_python(request, monkeypatch):
    """Caffe runs in a fork; in a Python of its own, as for users, where a test asks for that."""
    if "of_its_own" not in request.fixturenames:
        monkeypatch.setattr(foreign, "set_up", set_up_in_child)


@pytest.fixture
def of_its_own():
    """Caffe is asked for shapes in a Python of its own, whose log names the layers."""


def names(layers):
    return [layer.name for layer in layers]


def state(net, phase, variant="ours"):
    """Real Caffe's net of one state."""
    return caffe.Net(net, phase, stages=list(tables.STAGES[variant]))


# --- what is written ------------------------------------------------------------------------------


def test_every_variant_runs(run, of_its_own):
    """Instantiated by Caffe in both phases, one step of training each; nothing unused printed."""
    done = run(
        data_layers("crop_size: 16") + CONV + AUXILIARY + FC + CLASSIFIER + OUTPUTS,
        "--data",
        "data",
        "--out",
        "nets",
        "--max-iter",
        1,
        "--train-batch",
        4,
        *(part for variant in tables.STAGES for part in ("--variant", variant)),
    )
    written(done)
    assert "auxiliary    aux/fc_fine" in done.stdout
    for variant in tables.STAGES:
        for phase in (caffe.TRAIN, caffe.TEST):
            net = state("nets/mine_mini_train_val.prototxt", phase, variant)
            outputs = net.forward()
            assert all(
                name.startswith(("loss", "accuracy_", "aux/loss")) or name.endswith("_loss")
                for name in outputs
            ), outputs
            assert ("aux/loss" in outputs) == (phase == caffe.TRAIN)
        solver = caffe.get_solver(f"nets/mine_mini_{variant}_solver.prototxt")
        before = solver.net.params["conv"][0].data.copy()
        solver.step(1)
        assert np.abs(solver.net.params["conv"][0].data - before).max() > 0, variant


def test_the_new_head_is_that_of_our_nets(run):
    """As in prototxt/: what follows the feature differs in its names and filler only."""
    written(run(MINI, *ONE[2:], "--dataset", "cars"), "nets/cars_mini_train_val.prototxt")

    def head(path):
        net = text_format.Parse(Path(path).read_text(), caffe_pb2.NetParameter())
        start = names(net.layer).index("fc8_fine")
        return str(net.layer[start:]).replace("drop7", "drop1").replace("fc7", "fc1")

    assert head("nets/cars_mini_train_val.prototxt") == replaced(
        head(ROOT / "prototxt/cars_alexnet_train_val.prototxt"), "std: 0.01", "std: 0.25"
    )


def test_the_other_tools_read_it(repository, run, of_its_own):
    """Trained by caffe, scored, checked and drawn through its solver."""
    written(run(MINI, *ONE))
    solver = "nets/mine_mini_ours_solver.prototxt"
    subprocess.run(["caffe", "train", "-solver", solver], check=True, capture_output=True)
    for tool, *options in (
        ("evaluate", "--solver", solver),
        ("check_env", "--solver", solver),
        ("draw_net", solver, "--out", "head.svg"),
    ):
        done = subprocess.run([ROOT / f"tools/{tool}.py", *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(Path("results/mine_mini_ours.json").read_text())
    assert [level["classes"] for level in result["levels"]] == [12, 4] and result["images"] == 4
    assert all("head" in level for level in result["levels"])
    assert "fc9_coarse" in Path("head.svg").read_text()


def test_dropout_in_place_gets_a_blob_of_its_own(run):
    net = written(run(MINI, *ONE))
    layers = {layer.name: layer for layer in net.layer}
    assert list(layers["relu1"].top) == ["fc1"] == list(layers["drop1"].bottom)
    assert list(layers["drop1"].top) == ["drop1"] == list(layers["fc8_fine"].bottom)
    assert layers["drop1"].dropout_param.dropout_ratio == pytest.approx(0.3)
    assert layers["glm"].bottom[0] == "fc1"
    assert not {"fc2", "prob"} & set(layers)
    assert layers["fc8_fine"].inner_product_param.weight_filler.std == 0.25  # as fc2's


@pytest.mark.parametrize("text", [V0, V1], ids=["V0", "V1"])
def test_old_formats(run, text):
    net = written(run(text, *ONE))
    assert names(net.layer)[-1] and not net.layers and not net.input
    layers = {layer.name: layer for layer in net.layer}
    assert layers["conv"].type == "Convolution" and layers["drop1"].top[0] == "drop1"
    if text is V1:
        assert [param.lr_mult for param in layers["conv"].param] == [1, 2]
        images = [layer for layer in net.layer if layer.name == "data"]
        assert [layer.transform_param.scale for layer in images] == [0.5, 0.5]
        assert [layer.transform_param.crop_size for layer in images] == [16, 16]
        assert not images[0].transform_param.mean_value  # the file has a data layer, without mean


def test_options_reach_the_files(repository, run):
    done = run(
        MINI,
        *ONE,
        "--name",
        "trial",
        "--net-name",
        "tiny",
        "--base-lr",
        0.25,
        "--mean",
        "1,2,3",
        "--scale",
        "0.5",
        "--weights",
        "none.caffemodel",
        "--glm-json",
        '{"k": 2}',
        "--lambda",
        "0.5",
        "--minmax-weight",
        "0.125",
        "--metric-scale",
        "3",
        "--skip-input",
        "probabilities",
        "--variant",
        "sm_minmax",
    )
    net = written(done, "nets/trial_tiny_train_val.prototxt")
    transform = next(layer.transform_param for layer in net.layer if layer.name == "data")
    assert list(transform.mean_value) == [1, 2, 3] and transform.scale == 0.5
    assert '"k": 2' in next(
        layer.python_param.param_str for layer in net.layer if layer.name == "glm"
    )
    weights = {layer.name: layer.loss_weight[0] for layer in net.layer if layer.loss_weight}
    assert "softmax_fine" in next(layer.bottom for layer in net.layer if layer.name == "fc9_input")
    assert (weights["glm"], weights["minmax"]) == (0.5, 0.125)
    for layer in net.layer:
        row = tables.LOSSES.get(layer.name)
        if row and tables.FEATURE in row.reads and layer.name != "center":
            assert '"scale": 3' in layer.python_param.param_str
    text = Path("nets/trial_tiny_ours_solver.prototxt").read_text()
    assert "0.5 x the large-margin loss" in text
    assert "base_lr: 0.25" in text and "max_iter: 2 " in text
    assert "-weights none.caffemodel" in text and "none.caffemodel not found" in done.stdout
    assert (repository / "snapshots/trial_tiny_ours").is_dir()


def test_levels_by_sizes(run):
    net = written(run(MINI, *ONE, "--levels", "12"))
    assert "fc9_coarse" not in names(net.layer) and "fc8_fine" in names(net.layer)
    done = run(MINI, *ONE[2:], "--dataset", "cars", "--bbox")
    written(done, "nets/cars_mini_train_val.prototxt")
    assert 'stage: "bbox"' in Path("nets/cars_bbox_mini_ours_solver.prototxt").read_text()
    done = run(MINI, *ONE[2:], "--levels", "196,9")
    net = written(done, "nets/cars_mini_train_val.prototxt")
    assert [
        layer.inner_product_param.num_output
        for layer in net.layer
        if layer.name in ("fc8_fine", "fc9_coarse")
    ] == [196, 9, 9, 9]


def test_list_features(repository, run):
    done = run(MINI, "--list-features")
    assert done.returncode == 0, done.stderr
    rows = {line[2:].split()[0]: line for line in done.stdout.splitlines()}
    assert rows["conv"].startswith("  ") and "4 x 7 x 7" in rows["conv"]
    assert rows["fc1"].startswith("* ") and "drop1 (Dropout)" in rows["fc1"]
    assert not (repository / "nets").exists()


def test_weights_are_compared(run):
    written(run(MINI, *ONE))
    net = caffe.Net("mini_deploy.prototxt", caffe.TEST)
    net.save("own.caffemodel")
    assert "has 2 of the 2 layers" in run(MINI, *ONE, "--weights", "own.caffemodel").stdout
    wider = replaced(MINI, "num_output: 8", "num_output: 9")
    done = run(wider, *ONE, "--weights", "own.caffemodel")
    assert done.returncode == 1 and "own.caffemodel does not fit mini: fc1" in done.stderr
    done = run(
        replaced(MINI, 'name: "conv"', 'name: "conv_new"'), *ONE, "--weights", "own.caffemodel"
    )
    assert "1 of the 2 layers with weights; conv_new start" in done.stdout
    other = MINI.replace('name: "conv"', 'name: "a"').replace('name: "fc1"', 'name: "b"')
    done = run(other, *ONE, "--weights", "own.caffemodel")
    assert done.returncode == 1 and "has none of the layers of mini, such as a, b" in done.stderr


# --- where the cut is -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, dropped",
    [
        (
            replaced(
                replaced(MINI, DROP, DROP.replace('top: "fc1"', 'top: "d"')),
                'InnerProduct" bottom: "fc1"',
                'InnerProduct" bottom: "d"',
            ),
            "drop1",
        ),
        (replaced(MINI, RELU + DROP, DROP + RELU), "drop1"),
        (replaced(MINI, "dropout_param", "include { phase: TRAIN } dropout_param"), "drop1"),
        (replaced(MINI, DROP, ""), "fc1"),
    ],
    ids=["not in place", "before ReLU", "in training only", "none"],
)
def test_dropout(tmp_path, text, dropped):
    found = backbone(tmp_path, text)
    assert (found.feature, found.dropped) == ("fc1", dropped)
    layers = list(found.layers)
    if dropped != "fc1":
        drop = layers.pop()
        assert (drop.bottom[0], drop.top[0], len(drop.include)) == ("fc1", dropped, 0)
    assert layers[-1].name == "relu1" and not any(layer.type == "Dropout" for layer in layers)


def test_normalization_after_dropout_is_refused(tmp_path):
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "fc1" top: "fc1" }'
    text = replaced(MINI, CLASSIFIER, norm + CLASSIFIER)
    with pytest.raises(UserError, match="layer bn .BatchNorm. works on fc1 after dropout"):
        backbone(tmp_path, text)


def test_layers_of_one_phase_stay_so(tmp_path):
    norm = "".join(
        f'layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" include {{ '
        f"phase: {phase} }} batch_norm_param {{ use_global_stats: {stored} }} }}\n"
        for phase, stored in (("TRAIN", "false"), ("TEST", "true"))
    )
    found = backbone(tmp_path, replaced(MINI, FC, norm + FC))
    norms = [layer for layer in found.layers if layer.name == "bn"]
    assert [layer.include[0].phase for layer in norms] == [caffe.TRAIN, caffe.TEST]
    assert [layer.batch_norm_param.use_global_stats for layer in norms] == [False, True]
    assert all(not layer.include for layer in found.layers if layer.name != "bn")


def test_layers_of_stages_and_levels_are_left_out(tmp_path):
    extra = "".join(
        f'layer {{ name: "extra{i}" type: "ReLU" bottom: "conv" top: "conv" include {{ '
        f"{rule} }} }}\n"
        for i, rule in enumerate(('stage: "x"', "min_level: 1"))
    )
    found = backbone(tmp_path, replaced(MINI, FC, extra + FC))
    assert names(found.layers) == ["conv", "relu", "fc1", "relu1", "drop1"]


def test_layers_in_place_after_the_reader_are_left_out(tmp_path):
    """The feature depends on conv as it was before the later layer."""
    late = 'layer { name: "late" type: "TanH" bottom: "conv" top: "conv" }\n'
    found = backbone(tmp_path, replaced(MINI, CLASSIFIER, late + CLASSIFIER))
    assert names(found.layers) == ["conv", "relu", "fc1", "relu1", "drop1"]
    assert found.left_out == ("late", "fc2", "prob")


def test_weights_without_filler_start_random(tmp_path):
    found = backbone(tmp_path, MINI)
    layers = {layer.name: layer for layer in found.layers}
    assert layers["conv"].convolution_param.weight_filler.type == "msra"
    assert layers["fc1"].inner_product_param.weight_filler.type == "msra"


@pytest.mark.parametrize(
    "how, shape, last",
    [("pool", (4, 1, 1), "feature_pool"), ("flatten", (4 * 7 * 7,), "feature_flat")],
)
def test_map(tmp_path, how, shape, last):
    with pytest.raises(UserError, match="feature conv has 7 x 7 positions of 4 numbers"):
        backbone(tmp_path, MINI, "conv")
    found = backbone(tmp_path, MINI, "conv", how=how)
    assert found.shape == shape and found.feature == found.dropped == last
    assert names(found.layers) == ["conv", "relu", last]


def test_map_runs(run):
    """SqueezeNet's kind: the classifier is a convolution on the map, averaged afterwards."""
    text = (
        INPUT
        + CONV
        + """
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "conv10" type: "Convolution" bottom: "conv" top: "conv10"
        convolution_param { num_output: 10 kernel_size: 1 } }
layer { name: "relu10" type: "ReLU" bottom: "conv10" top: "conv10" }
layer { name: "pool10" type: "Pooling" bottom: "conv10" top: "pool10"
        pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool10" top: "prob" }
"""
    )
    done = run(text, *ONE, "--map", "pool")
    net = written(done)
    layers = {layer.name: layer for layer in net.layer}
    assert layers["drop"].bottom[0] == "feature_pool" == layers["glm"].bottom[0]
    assert "what conv10 reads" in done.stdout
    outputs = state("nets/mine_mini_train_val.prototxt", caffe.TRAIN).forward()
    assert all(np.isfinite(value).all() for value in outputs.values()) and "glm_loss" in outputs


def test_auxiliary(tmp_path):
    text = data_layers("crop_size: 16") + CONV + AUXILIARY + FC + CLASSIFIER + OUTPUTS
    path = tmp_path / "net.prototxt"
    found = backbone(tmp_path, text)
    assert found.auxiliary == ("aux/fc_fine",) and "aux/accuracy" in found.left_out
    read = foreign.read(path)
    nodes = graph.nodes(read.net)
    feature = cut.find_feature(nodes, "fc1")
    net = grafted.graft(read, nodes, feature, sources.find_images(nodes, "data"), "mini", "")
    layers = {layer.name: layer for layer in net.layers(12, SIDE)}
    classifier, loss = layers["aux/fc_fine"], layers["aux/loss"]
    assert classifier.inner_product_param.num_output == 12
    assert [param.lr_mult for param in classifier.param] == [10, 20]
    assert list(loss.bottom) == ["aux/fc", "label_1"] and list(loss.loss_weight) == [
        pytest.approx(0.3)
    ]
    assert [layer.include[0].phase for layer in (classifier, loss)] == [caffe.TRAIN] * 2
    assert not layers["conv"].include
    assert net.layers(5, SIDE)[2].inner_product_param.num_output == 5
    assert classifier.inner_product_param.num_output == 12  # each call makes its own
    without = backbone(tmp_path, text, auxiliary=False)
    assert not without.auxiliary and "aux/fc" in without.left_out


def test_names_of_the_head_are_kept_free(tmp_path):
    """Blobs and layers without weights get other names; a layer with weights can't."""
    text = replaced(MINI, '"conv"', '"label_1"')
    text = replaced(text, 'name: "label_1"', 'name: "conv"')
    text = replaced(text, 'name: "relu"', 'name: "glm"')
    text = replaced(
        replaced(text, 'top: "data"', 'top: "picture"'), 'bottom: "data"', 'bottom: "picture"'
    )
    found = backbone(tmp_path, text)
    assert names(found.layers)[:2] == ["conv", "glm_backbone"]
    assert list(found.layers[0].bottom) == ["data"]
    assert list(found.layers[0].top) == ["label_1_backbone"]
    assert found.renamed == {
        "picture": "data",
        "label_1": "label_1_backbone",
        "glm": "glm_backbone",
    }
    with pytest.raises(UserError, match="layer fc8_fine has weights and the same name as a layer"):
        backbone(tmp_path, replaced(MINI, 'name: "fc1"', 'name: "fc8_fine"'))


def test_what_nothing_reads_is_silenced(tmp_path):
    split = (
        'layer { name: "slice" type: "Slice" bottom: "conv" top: "a" top: "b" '
        "slice_param { axis: 1 } }\n"
    )
    reader = FC.replace('bottom: "conv"', 'bottom: "a"', 1)
    found = backbone(tmp_path, replaced(MINI, FC, split + reader))
    silence = [layer for layer in found.layers if layer.type == "Silence"]
    assert [list(layer.bottom) for layer in silence] == [["b"], ["b"]]
    assert {layer.include[0].phase for layer in silence} == {caffe.TRAIN, caffe.TEST}


def test_grafting_twice(run):
    """A net that was grafted is a net like others."""
    first = written(run(MINI, *ONE))
    again = run(Path("nets/mine_mini_train_val.prototxt").read_text(), *ONE, "--net-name", "again")
    assert names(written(again, "nets/mine_again_train_val.prototxt").layer) == names(first.layer)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform, expected, said",
    [
        (
            "crop_size: 16 mean_value: 10 mean_value: 20 mean_value: 30 scale: 0.25",
            dict(mean_value=(10, 20, 30), scale=0.25),
            "as layer data states",
        ),
        (
            'crop_size: 16 mean_file: "mean.binaryproto"',
            dict(mean_value=(1, 2, 3)),
            "as layer data states",
        ),
        (
            'crop_size: 16 mean_file: "none.binaryproto" scale: 0.5',
            dict(mean_value=(104, 117, 123), scale=0.5),
            "none.binaryproto of layer data not found: ImageNet's mean, or give --mean",
        ),
    ],
    ids=["kept", "mean file", "mean file not found"],
)
def test_transformation(tmp_path, monkeypatch, transform, expected, said):
    monkeypatch.chdir(tmp_path)
    blob = caffe_pb2.BlobProto(num=1, channels=3, height=4, width=4)
    blob.data.extend(np.repeat([1, 2, 3], 16))
    param = 'image_data_param { source: "there.txt" }'
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    (tmp_path / "net.prototxt").write_text(data_layers(transform, "ImageData", param) + CONV)
    images = sources.find_images(graph.nodes(foreign.read("net.prototxt").net), "data")
    assert (images.crop, images.transform, images.said) == (16, expected, said)


# --- refusals -------------------------------------------------------------------------------------

TWO = replaced(
    MINI,
    FC,
    """
layer { name: "in2" type: "Input" top: "info"
        input_param { shape { dim: 1 dim: 4 dim: 7 dim: 7 } } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "info" top: "sum" }
"""
    + FC.replace('bottom: "conv"', 'bottom: "sum"', 1),
)


@pytest.mark.parametrize(
    "text, options, status, says",
    [
        (MINI, ("--feature", "fc11"), 1, "the net has no blob fc11: did you mean fc1"),
        (MINI, ("--feature", "data"), 1, "data is an input, not a feature"),
        (
            MINI,
            ("--feature", "relu1"),
            1,
            "relu1 is a layer: name the blob that it writes, fc1",
        ),
        (MINI, ("--feature", "conv"), 1, "--map pool"),
        (INPUT + CONV, (), 1, "name a --feature"),
        (
            MINI + 'layer { name: "sum" type: "Eltwise" bottom: "fc2" bottom: "fc2" top: "sum" }',
            (),
            1,
            "name a --feature",
        ),
        (TWO, (), 1, "depends on several inputs (data, info)"),
        (replaced(MINI, "dim: 3", "dim: 1"), (), 1, "input data is 1 x 1 x 16 x 16"),
        (replaced(MINI, "dim: 16 }", "dim: 20 }"), (), 1, "images of 16 x 20"),
        (data_layers("") + CONV + FC + CLASSIFIER + OUTPUTS, (), 1, "add --crop"),
        (data_layers("force_gray: true") + CONV + FC + CLASSIFIER, (), 1, "reads gray images"),
        (
            replaced(MINI, '"ReLU" bottom: "conv"', '"Swish2" bottom: "conv"'),
            (),
            1,
            "layer relu has type Swish2, which this Caffe does not have",
        ),
        (replaced(MINI, "kernel_size: 3", "kernel_size: 99"), (), 1, "Caffe refuses mini"),
        (
            replaced(MINI, "kernel_size: 3", "dilated: 3"),
            (),
            1,
            "has no field `convolution_param.dilated`",
        ),
        ("", (), 1, "is empty"),
        (MINI, ("--crop", 32), 1, "larger --size"),
        (MINI, ("--levels", "12,5"), 1, "have 12, 4 classes"),
        (MINI, ("--bbox",), 2, "--bbox needs a --dataset with boxes: "),
        (MINI, ("--name", "../x"), 1, "file name"),
        (MINI, ("--glm-json", "nonsense"), 1, "not valid JSON"),
        (MINI, ("--mean", "1,2"), 2, "--mean"),
        (MINI, ("--scale", "0"), 2, "--scale"),
        (MINI, ("--dataset", "cars"), 2, "not allowed with"),
    ],
)
def test_refusals(repository, run, of_its_own, text, options, status, says):
    done = run(text, *ONE, *options)
    assert done.returncode == status and says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (repository / "nets").exists()
    if status == 1:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options, says", [((), "name a data set"), (("--levels", "3,2"), "--out is required")]
)
def test_incomplete_commands(run, options, says):
    done = run(MINI, *options)
    assert done.returncode == 2 and says in done.stderr


def test_images_are_larger_than_crops(run):
    """The command that builds the data set names a size that large crops fit into."""
    large = replaced(MINI, "dim: 16 dim: 16", "dim: 299 dim: 299")
    written(run(large, *ONE[2:], "--dataset", "cars"), "nets/cars_mini_train_val.prototxt")
    text = Path("nets/cars_mini_ours_solver.prototxt").read_text()
    assert "--size 352 --out data/cars_352" in text


def test_a_feature_before_relu_is_reported(run):
    text = replaced(MINI, 'bottom: "fc1" top: "fc1" }', 'bottom: "fc1" top: "r" }')
    text = replaced(text, 'Dropout" bottom: "fc1"', 'Dropout" bottom: "r"')
    assert "--feature r\n" in run(text, *ONE, "--feature", "fc1").stdout


def test_levels_of_no_known_data_set(run):
    done = run(MINI, "--levels", "3,2", "--out", "nets")
    assert done.returncode == 1 and "196,9 (cars)" in done.stderr and "--data" in done.stderr
