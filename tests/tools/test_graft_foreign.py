"""tools/graft.py on prototxts as other people write them: stages, data layers, endings, encodings,
and the fields and layers of other Caffes. Small restatements of what public nets contain.
"""

import subprocess
from pathlib import Path

import caffe
import nets_data
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from graft_nets import (
    CLASSIFIER,
    CONV,
    FC,
    INPUT,
    MINI,
    ONE,
    OUTPUTS,
    PROB,
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
from tools.nets import cut, foreign, forks, graph, sources

BODY = CONV + FC + CLASSIFIER
SCALE = 'layer { name: "scaled" type: "Power" bottom: "data" top: "data" }\n'


SET_UP = foreign.set_up


@pytest.fixture(autouse=True)
def _without_starting_python(monkeypatch):
    """Caffe runs in a fork, which is faster; its log then lacks the names of the layers."""
    monkeypatch.setattr(foreign, "set_up", set_up_in_child)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def repository(here):
    """The current folder, with a data set of 12 -> 4 classes in data/."""
    nets_data.build(here / "data", "mine", ("plant", "genus"), (12, 4), SIDE, train=8, test=4)
    return here


def read(text):
    """(foreign.ForeignNet, its nodes) of a prototxt in the current folder."""
    Path("net.prototxt").write_text(text)
    net = foreign.read("net.prototxt")
    return net, graph.nodes(net.net)


def images(text, blob="data", **options):
    net, nodes = read(text)
    return sources.find_images(nodes, blob, net.unknown, **options)


def refused(text, *options):
    """The error of the command, one line, without traceback; nothing was written."""
    done = graft(text, *ONE, *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not Path("nets").exists()
    return done.stderr


# --- stages ---------------------------------------------------------------------------------------


def by_stage(transform, param):
    """Data layers as DIGITS writes them."""
    return "".join(
        f'layer {{ name: "{stage}-data" type: "Data" top: "data" top: "label" '
        f'include {{ stage: "{stage}" }} transform_param {{ {transform} }} data_param {{ {param} '
        "batch_size: 8 } }\n"
        for stage in ("train", "val")
    )


DIGITS = """
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy"
        include { stage: "val" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss"
        exclude { stage: "deploy" } }
layer { name: "softmax" type: "Softmax" bottom: "fc2" top: "softmax" include { stage: "deploy" } }
"""


def test_data_layers_of_stages(repository):
    """Size, mean and scale come from them; the layers of the stages are taken."""
    stated = "crop_size: 16 mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5"
    of_stage = SCALE.replace("top:", 'include { stage: "train" } include { stage: "val" } top:')
    text = by_stage(stated, 'source: "db"') + of_stage + BODY + DIGITS
    done = graft(text, *ONE)
    layers = {layer.name: layer for layer in written(done).layer}
    assert list(layers["data"].transform_param.mean_value) == [1, 2, 3]
    assert layers["data"].transform_param.scale == 0.5
    assert "minus 1, 2, 3, times 0.5 (as layer train-data states)" in done.stdout
    assert "train in training, val in tests" in done.stdout
    assert "scaled" in layers and not layers["scaled"].include


@pytest.mark.parametrize(
    "text, said",
    [
        (by_stage("crop_size: 16", ""), "layer train-data states neither a mean nor a data set"),
        (by_stage("crop_size: 16", 'source: "db"'), "as layer train-data states"),
        (INPUT, "the prototxt states none"),
        (
            data_layers("crop_size: 16 mean_value: 5").replace('top: "label" ', "", 0),
            "as layer data states",
        ),
    ],
    ids=["template", "no mean", "input", "one mean"],
)
def test_where_the_mean_comes_from(here, text, said):
    found = images(text + BODY)
    assert said in found.said
    stated = found.transform.get("mean_value")
    assert stated == ((104, 117, 123) if "ImageNet" in found.said else stated)
    assert ("ImageNet" in found.said) == ("states n" in found.said)


def test_layers_that_differ_in_their_mean_are_named(here):
    text = data_layers("crop_size: 16 mean_value: 5").replace(
        "{ name", "{ include { phase: TRAIN } name"
    )
    other = data_layers("crop_size: 16").replace("{ name", "{ include { phase: TEST } name")
    assert images(text + other + BODY).said == "as layer data states; another layer, data, differs"


def test_fields_of_the_old_formats_in_the_current_one_are_named(here):
    """Caffe reads such fields in V1 layers only."""
    text = data_layers("crop_size: 16", param='data_param { source: "x" mean_file: "m" scale: 2 }')
    found = images(text + BODY)
    assert found.transform == {}
    assert found.said == (
        "as layer data states; Caffe ignores mean_file and scale in its data_param"
    )


def test_mean_values_of_two_channels(here):
    text = data_layers("crop_size: 16 mean_value: 5 mean_value: 6") + BODY
    with pytest.raises(UserError, match="layer data states 2 mean_value"):
        images(text)
    assert images(text, mean=(1.0, 2.0, 3.0)).transform == dict(mean_value=(1, 2, 3))


# --- sizes ----------------------------------------------------------------------------------------


def source(kind, param, tops='top: "data" top: "label"'):
    return f'layer {{ name: "in" type: "{kind}" {tops} {param} }}\n'


DIM = "dim: 4 dim: 3 dim: 20 dim: 20"
SIZES = {
    "Input of two tops": source("Input", f"input_param {{ shape {{ {DIM} }} shape {{ dim: 4 }} }}"),
    "DummyData": source(
        "DummyData", f"dummy_data_param {{ shape {{ {DIM} }} shape {{ dim: 4 dim: 1 }} }}"
    ),
    "DummyData, old": source(
        "DummyData",
        "dummy_data_param { num: 4 num: 4 channels: 3 channels: 1 height: 20 height: 1 "
        "width: 20 width: 1 }",
    ),
    "MemoryData": source(
        "MemoryData", "memory_data_param { batch_size: 1 channels: 3 height: 20 width: 20 }"
    ),
    "ImageData, resized": source(
        "ImageData", 'image_data_param { source: "none" new_height: 20 new_width: 20 }'
    ),
    "ImageData, cropped": source(
        "ImageData",
        'image_data_param { source: "none" new_height: 30 new_width: 40 } '
        "transform_param { crop_size: 20 }",
    ),
    "WindowData": source(
        "WindowData", 'window_data_param { source: "none" } transform_param { crop_size: 20 }'
    ),
    "SSD's, resized": source(
        "AnnotatedData", "transform_param { resize_param { height: 20 width: 20 } }"
    ),
    "SSD's, cropped": source("AnnotatedData", "transform_param { crop_h: 20 crop_w: 20 }"),
    "another's": source(
        "MultiLabelData", "multi_label_data_param { new_height: 20 new_width: 20 }"
    ),
    "V0": """layers { layer { name: "in" type: "images" source: "none" batchsize: 1 new_height: 20
                      new_width: 20 } top: "data" top: "label" }""",
    "V0, window": """layers { layer { name: "in" type: "window_data" source: "none" batchsize: 1
                     cropsize: 20 det_context_pad: 16 det_fg_threshold: 0.5 }
                     top: "data" top: "label" }""",
    "V1": """layers { name: "in" type: WINDOW_DATA top: "data" top: "label"
                      window_data_param { source: "none" crop_size: 20 mean_file: "m" } }""",
    "input_shape": f'input: "data" input_shape {{ {DIM} }}',
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_that_sources_state(here, kind):
    old = '\nlayers { name: "relu" type: RELU bottom: "data" top: "relu" }'
    if kind.startswith("V0"):
        old = '\nlayers { layer { name: "relu" type: "relu" } bottom: "data" top: "relu" }'
    assert images(SIZES[kind] + (old if kind.startswith("V") else BODY)).crop == 20


@pytest.mark.parametrize(
    "text",
    [
        source("HDF5Data", 'hdf5_data_param { source: "list.txt" batch_size: 5 }'),
        source(
            "Data",
            'data_param { source: "data/train_images" batch_size: 9 backend: LMDB }',
            'top: "data"',
        ),
    ],
    ids=["HDF5Data", "Data"],
)
def test_sizes_of_data_sets_that_are_found(repository, text):
    """Caffe opens the data set to find the size, and reads one image."""
    Path("write.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        "shape { dim: 2 dim: 3 dim: 16 dim: 16 } shape { dim: 2 dim: 1 } } }\n"
        'layer { name: "out" type: "HDF5Output" bottom: "data" bottom: "label" '
        'hdf5_output_param { file_name: "made.h5" } }'
    )
    net = caffe.Net("write.prototxt", caffe.TEST)
    net.forward()
    del net
    Path("list.txt").write_text("made.h5\n")
    assert images(text + BODY).crop == SIDE


@pytest.mark.parametrize(
    "text, says",
    [
        (source("HDF5Data", 'hdf5_data_param { source: "none" batch_size: 5 }'), "add --crop"),
        (
            source("Python", 'python_param { module: "a" layer: "b" }'),
            "layer in (Python) states no size of its images: add --crop",
        ),
        (
            source("Data", 'data_param { source: "none" }'),
            "layer in (Data) states no size of its images, and none is not found or not readable",
        ),
        (
            source("Data", 'data_param { crop_size: 227 mean_file: "m" }'),
            "layer in (Data) states crop_size 227 in data_param, where Caffe ignores it",
        ),
        (
            source("ImageData", 'image_data_param { source: "a" new_height: 8 new_width: 9 }'),
            "layer in (ImageData) makes images of 8 x 9",
        ),
        (
            source("ImageData", 'image_data_param { source: "a" is_color: false }'),
            "layer in (ImageData) reads gray images",
        ),
        (
            source("DummyData", "dummy_data_param { shape { dim: 4 dim: 1 dim: 9 dim: 9 } }"),
            "input data is 4 x 1 x 9 x 9",
        ),
        ('input: "data"', "add --crop"),
    ],
)
def test_sizes_that_are_missing_or_unfit(repository, text, says):
    assert says in refused(text + BODY)


@pytest.mark.parametrize("options", [(), ("--crop", "16")])
def test_gray_images(repository, options):
    """Stated, or found in the data set; --crop changes nothing about it."""
    gray = "input_param { shape { dim: 1 dim: 1 dim: 16 dim: 16 } }"
    error = refused(source("Input", gray, 'top: "data"') + BODY, *options)
    assert "input data is 1 x 1 x 16 x 16" in error
    if not options:
        labels = 'data_param { source: "data/train_labels" backend: LMDB batch_size: 2 }'
        assert "input data is 1 x 2 x 1 x 1" in refused(
            source("Data", labels, 'top: "data"') + BODY
        )


def test_sizes_of_thousands_of_digits(repository):
    text = SIZES["SSD's, cropped"].replace("20", "9" * 5000)
    assert "states no size of its images" in refused(text + BODY)


def test_crop_replaces_what_is_not_square(here):
    text = source("Input", "input_param { shape { dim: 1 dim: 3 dim: 8 dim: 9 } }", 'top: "data"')
    assert images(text + BODY, crop=16).crop == 16


# --- endings --------------------------------------------------------------------------------------

ENDINGS = {
    "sigmoid": 'layer { name: "p" type: "Sigmoid" bottom: "fc2" top: "p" }',
    "sigmoid loss": """layer { name: "l" type: "SigmoidCrossEntropyLoss" bottom: "fc2"
                               bottom: "label" top: "l" }""",
    "Euclidean": 'layer { name: "l" type: "EuclideanLoss" bottom: "fc2" bottom: "label" top: "l" }',
    "multinomial": PROB
    + 'layer { name: "l" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "l" }',
    "tanh": 'layer { name: "h" type: "TanH" bottom: "fc2" top: "fc2" }',
    "power": 'layer { name: "t" type: "Power" bottom: "fc2" top: "t" }' + OUTPUTS,
    "HDF5": """layer { name: "o" type: "HDF5Output" bottom: "fc2" bottom: "label"
                       hdf5_output_param { file_name: "o" } }""",
    "Python": """layer { name: "l" type: "Python" bottom: "fc2" bottom: "label" top: "l"
                         python_param { module: "m" layer: "L" } }""",
    "another Caffe's loss": """layer { name: "l" type: "PairwiseLoss" bottom: "fc2" bottom: "label"
                                       top: "l" pairwise_param { threshold: 15 } }""",
    "two heads": """layer { name: "other" type: "InnerProduct" bottom: "fc1" top: "other"
                            inner_product_param { num_output: 5 } }"""
    + OUTPUTS,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_classifiers_are_found_before(here, ending):
    _, nodes = read(data_layers("crop_size: 16") + BODY + ENDINGS[ending])
    classifier = nodes[cut.find_classifier(nodes)].layer
    assert classifier.name in ("fc2", "other") and classifier.bottom[0] == "fc1"


@pytest.mark.parametrize(
    "text, says",
    [
        (
            BODY + 'layer { name: "sum" type: "Eltwise" bottom: "fc2" bottom: "fc2" top: "sum" }',
            "layer or 1 x 1 convolution, fc2, is followed by sum (Eltwise)",
        ),
        (CONV, "its last layer with weights is conv (Convolution, 3 x 3)"),
        (
            'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" }',
            "its last classifier, fc, reads the input data, so the net has no feature",
        ),
    ],
)
def test_no_classifier(repository, text, says):
    assert says in refused(INPUT + text)


SQUEEZED = """
layer { name: "conv10" type: "Convolution" bottom: "conv" top: "conv10"
        convolution_param { num_output: 10 kernel_size: 1 } }
layer { name: "pool10" type: "Pooling" bottom: "conv10" top: "pool10"
        pooling_param { pool: AVE global_pooling: true } }
"""


@pytest.mark.parametrize(
    "text, feature, says",
    [
        (SQUEEZED, "feature_pool", "conv averaged over its positions, as the net does"),
        (
            CLASSIFIER.replace('bottom: "fc1"', 'bottom: "conv"'),
            "feature_flat",
            "conv with its positions joined, as its classifier reads them",
        ),
    ],
    ids=["convolution", "fully connected"],
)
def test_maps_become_vectors_as_in_the_net_itself(repository, text, feature, says):
    done = graft(INPUT + CONV + text, *ONE)
    layers = {layer.name: layer for layer in written(done).layer}
    assert layers["glm"].bottom[0] == feature and says in done.stdout


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + MINI.encode(),
        MINI.encode("utf-16"),
        "# 卷积\n".encode("gb18030") + MINI.encode(),
        MINI.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + V0.encode(),
    ],
    ids=["UTF-8 with a mark", "UTF-16", "comments in GB 18030", "CRLF", "V0 with a mark"],
)
def test_encodings(repository, content):
    written(graft(content, *ONE))


def test_fields_that_caffe_ignores_in_v0(repository):
    """Its upgrade program fails; Caffe itself reads the net."""
    data = """layers { layer { name: "in" type: "data" source: "x" batchsize: 2 cropsize: 16
              det_fg_threshold: 0.5 det_context_pad: 16 } top: "data" top: "label" }\n"""
    text = data + V0[V0.index("layers") :]
    done = graft(text, *ONE)
    written(done)
    assert "Unknown parameter det_context_pad for layer type data: Caffe ignores it" in done.stdout


DEEP = "layer { " * 10000
HOSTILE = {
    "empty": (b" \n\t", "is empty"),
    "binary": (b"\x0a\x05conv1\x00\x12", "is a binary file (a caffemodel?)"),
    "random": (bytes(range(128, 256)), "line 1"),
    "deep": (DEEP.encode() + b"}" * 10000, "nested more than 100 deep"),
    "deep in another field": (b"a { " * 10000 + b"}" * 10000, "nested more than 100 deep"),
    "large": (b"# " + b"x" * (5 << 20), "is larger than 2 MB"),
    "comments": (b"# nothing\n", "has no layers, so it is not a net"),
    "solver": (b'net: "a"\nbase_lr: 1', "is a solver: give the prototxt of the net"),
    "label map": (b'item { name: "a" label: 1 }', "line 1: this Caffe has no field `item`"),
    "sentence": (b"this is not a net", "line 1"),
    "open": (MINI.encode()[:-5], "is not a net's prototxt: line 17: String missing ending quote"),
    "wrong type": (b"layer {\n name: 1 }", "line 2: Expected string"),
    "twice": (b'layer {\n name: "a"\n name: "b" }', 'line 3: Message type "caffe.LayerParameter"'),
    "both formats": (MINI.encode() + V1.encode(), "both 'layer' and 'layers'"),
    "name with a line break": (MINI.replace('"conv"', '"co\\nnv"').encode(), "can't be printed"),
    "name in another encoding": (MINI.replace('"conv"', '"卷积"').encode("gb18030"), "not UTF-8"),
    "inputs without dimensions": (
        b'input: "data" input_dim: 1 layer { name: "a" type: "ReLU" bottom: "data" top: "a" }',
        "has 1 `input` and 1 `input_dim`",
    ),
    "shapes without inputs": (
        b'input: "data" input_shape { dim: 1 } input_shape { dim: 1 } layer { }',
        "has 1 `input` but 2 `input_shape`",
    ),
    "huge layer": (
        replaced(MINI, "num_output: 8", "num_output: 4000000000").encode(),
        "Caffe refuses mini_deploy.prototxt at layer fc1",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(repository, monkeypatch, kind):
    monkeypatch.setattr(foreign, "set_up", SET_UP)
    content, says = HOSTILE[kind]
    assert says in refused(content)


@pytest.mark.parametrize("path, says", [(".", "can't be read"), ("no", "not found (current")])
def test_paths(here, path, says):
    with pytest.raises(UserError) as error:
        foreign.read(path)
    assert says in str(error.value)


# --- layers that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, says",
    [
        (
            replaced(MINI, '"Convolution" bottom: "data"', '"Convolution" bottom: "dat"'),
            "layer conv (Convolution) reads blob dat, which no layer before it writes: did you "
            "mean data?",
        ),
        (
            INPUT + FC + CONV + CLASSIFIER,
            "layer fc1 (InnerProduct) reads blob conv, which no layer before it writes: conv, "
            "after it, does",
        ),
        (
            V0.replace('bottom: "fc1" top: "fc2"', 'bottom: "fc0" top: "fc2"'),
            "layer fc2 reads blob fc0, which no layer before it writes",
        ),
        (replaced(MINI, 'bottom: "conv" top: "conv" }', "}"), "layer relu (ReLU) has no bottom"),
        (
            replaced(MINI, "num_output: 8", 'num_output: 8 weight_filler { type: "gausian" }'),
            "at layer fc1's weight_filler: Check failed: false Unknown filler name: gausian",
        ),
        (
            replaced(MINI, "kernel_size: 3", "kernel_size: 30"),
            "Caffe refuses mini_deploy.prototxt at layer conv",
        ),
    ],
    ids=["typing error", "order", "V0", "no bottom", "filler", "too large a filter"],
)
def test_what_caffe_would_refuse(repository, monkeypatch, text, says):
    monkeypatch.setattr(foreign, "set_up", SET_UP)
    assert says in refused(text)


def test_sparse_fillers(repository):
    """They need as many outputs as they leave weights."""
    sparse = 'num_output: 8 weight_filler { type: "gaussian" sparse: %d }'
    written(graft(replaced(MINI, "num_output: 8", sparse % 8), *ONE))
    done = graft(replaced(MINI, "num_output: 8", sparse % 9), *ONE)
    assert done.returncode == 1 and "Check failed: p <= 1" in done.stderr


def test_layers_after_the_feature_may_be_wrong(repository):
    """Such layers are removed."""
    extra = 'layer { name: "x" type: "Nonsense" bottom: "nothing" top: "x" no_param { a: 1 } }'
    done = graft(MINI + extra, *ONE)
    written(done)
    assert "line 18: layer x has type Nonsense, which this Caffe does not have" in done.stdout


# --- other Caffes ---------------------------------------------------------------------------------

DEPTHWISE = """
layer { name: "dw" type: "%s" bottom: "conv" top: "dw"
        convolution_param { num_output: 4 kernel_size: 3 bias_term: false %s } }
"""
POOL = """
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 %s } }
"""
AXPY = """
layer { name: "squeeze" type: "Pooling" bottom: "conv" top: "squeeze"
        pooling_param { pool: AVE global_pooling: true } }
layer { name: "axpy" type: "Axpy" bottom: "squeeze" bottom: "conv" bottom: "conv" top: "axpy" }
"""


def between(extra, blob):
    """A net with a layer between conv and fc1."""
    return INPUT + CONV + extra + FC.replace('bottom: "conv"', f'bottom: "{blob}"', 1) + CLASSIFIER


# net, what is said, what the translated net has
TRANSLATED = {
    "ceil_mode: false": (
        between(POOL % "ceil_mode: false", "pool"),
        "`ceil_mode` of layer pool belongs to another Caffe; here write `round_mode: FLOOR`",
        "round_mode: FLOOR",
    ),
    "ceil_mode: true": (
        between(POOL % "ceil_mode: true", "pool"),
        "here leave it out (it is what this Caffe does)",
        "",
    ),
    "ConvolutionDepthwise": (
        between(DEPTHWISE % ("ConvolutionDepthwise", ""), "dw"),
        'here write `type: "Convolution"` with `group: 4`',
        "group: 4",
    ),
    "DepthwiseConvolution": (
        between(DEPTHWISE % ("DepthwiseConvolution", "group: 4 engine: CAFFE"), "dw"),
        'here write `type: "Convolution"`',
        "group: 4",
    ),
    "ReLU6": (
        between('layer { name: "r" type: "ReLU6" bottom: "conv" top: "r" }', "r"),
        "`clip_param { min: 0 max: 6 }`",
        "max: 6",
    ),
    "ReLU6 in place": (
        between('layer { name: "r" type: "ReLU6" bottom: "conv" top: "conv" }', "conv"),
        'here write `type: "Clip"` with `clip_param { min: 0 max: 6 }`, not in place',
        'top: "conv_unclipped"',
    ),
    "Axpy": (between(AXPY, "axpy"), "here write Flatten, Scale and Eltwise", '"Eltwise"'),
    "numeric precision": (
        "default_forward_type: FLOAT16\n"
        + MINI.replace('type: "ReLU"', 'type: "ReLU" forward_math: FLOAT', 1),
        "`default_forward_type` belongs to another Caffe; here leave it out (it only selects a "
        "numeric precision)",
        "",
    ),
    "implementation": (
        'engine: "MKL2017"\n' + replaced(MINI, "stride: 2 }", "stride: 2 engine: MKLDNN }"),
        "line 1: `engine` belongs to another Caffe; here leave it out (it only selects an "
        "implementation)",
        "",
    ),
}


@pytest.mark.parametrize("kind", TRANSLATED)
def test_translations(repository, kind):
    """Named by the line, refused; with --translate written, and read by Caffe as it stands."""
    text, says, has = TRANSLATED[kind]
    error = refused(text)
    assert says in error and "--translate FILE makes" in error and "line " in error
    done = graft(text, *ONE, "--translate", "stock.prototxt")
    net = written(done)
    translated = Path("stock.prototxt").read_text()
    assert has in translated and "wrote stock.prototxt" in done.stdout
    caffe.Net("stock.prototxt", caffe.TEST)
    assert {"conv", "fc1"} <= {layer.name for layer in net.layer}
    again = graft(text, *ONE, "--translate", "stock.prototxt")
    assert again.returncode == 0 and Path("stock.prototxt").read_text() == translated


def test_rules_and_comments_are_kept_in_translations(here):
    axpy = AXPY.replace('top: "axpy"', 'top: "axpy" include { phase: TRAIN }')
    text = "# my net\n" + between(axpy, "axpy")
    new = forks.translate(text)
    assert new.startswith("# my net\n") and forks.find(new) == []
    net = text_format.Parse(new, caffe_pb2.NetParameter())
    added = [layer for layer in net.layer if layer.name.startswith("axpy")]
    assert [layer.type for layer in added] == ["Flatten", "Scale", "Eltwise"]
    assert all(layer.include[0].phase == caffe.TRAIN for layer in added)


def _run(text, data, diff, top):
    """(top, gradient of data) of a net on data, for a gradient of its top."""
    Path("run.prototxt").write_text("force_backward: true\n" + text)
    net = caffe.Net("run.prototxt", caffe.TRAIN)
    for name, values in data.items():
        net.blobs[name].data[...] = values
    net.forward()
    net.blobs[top].diff[...] = diff
    net.backward()
    return net.blobs[top].data.copy(), {name: net.blobs[name].diff.copy() for name in data}


def inputs(*shapes):
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {n}' for n in shape)} }} }} }}\n"
        for name, shape in shapes
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_relu6_forward_and_backward(here, in_place):
    """The translation is min(max(x, 0), 6), with gradients inside only."""
    x = np.linspace(-3, 9, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    diff = np.arange(x.size, dtype=np.float32).reshape(x.shape) + 1
    top = "y" if in_place else "z"
    text = inputs(("x", x.shape)) + (
        'layer { name: "copy" type: "Power" bottom: "x" top: "y" }\n'
        f'layer {{ name: "r" type: "ReLU6" bottom: "y" top: "{top}" }}\n'
    )
    out, grad = _run(forks.translate(text), {"x": x}, diff, top)
    assert np.allclose(out, np.clip(x, 0, 6), atol=1e-6)
    assert np.allclose(grad["x"], diff * ((x > 0) & (x < 6)))


def test_axpy_forward_and_backward(here):
    """The translation is a x + y, with the gradients of all three."""
    rng = np.random.default_rng(0)
    a, x, y = (rng.normal(size=s).astype(np.float32) for s in [(2, 3, 1, 1), *[(2, 3, 4, 5)] * 2])
    diff = rng.normal(size=x.shape).astype(np.float32)
    text = inputs(("a", a.shape), ("x", x.shape), ("y", y.shape)) + (
        'layer { name: "s" type: "Axpy" bottom: "a" bottom: "x" bottom: "y" top: "s" }\n'
    )
    out, grad = _run(forks.translate(text), dict(a=a, x=x, y=y), diff, "s")
    assert np.allclose(out, a * x + y, atol=1e-5)
    assert np.allclose(grad["a"], (diff * x).sum((2, 3), keepdims=True), atol=1e-4)
    assert np.allclose(grad["x"], diff * a, atol=1e-5) and np.allclose(grad["y"], diff, atol=1e-6)


@pytest.mark.parametrize(
    "text, says",
    [
        (
            between(
                'layer { name: "s" type: "ShuffleChannel" bottom: "conv" top: "s" '
                "shuffle_channel_param { group: 2 } }",
                "s",
            ),
            "line 8: layer s has type ShuffleChannel, which this Caffe does not have",
        ),
        (
            between(
                'layer { name: "b" type: "BatchNorm" bottom: "conv" top: "b" '
                "batch_norm_param { scale_bias: true } }",
                "b",
            ),
            "no field `batch_norm_param.scale_bias` of layer b (of NVIDIA's Caffe, whose BatchNorm "
            "also holds the weights of a Scale layer)",
        ),
        (between(POOL % "pad_type: 1", "pool"), "no field `pooling_param.pad_type` of layer pool"),
        (
            between((POOL % "").replace("MAX", "MIN"), "pool"),
            "this Caffe has no `pool: MIN` of layer pool (it has MAX, AVE, STOCHASTIC)",
        ),
        (between(POOL % "kernel_sise: 3", "pool"), "(did you mean kernel_size?)"),
        (
            between(DEPTHWISE % ("DepthwiseConvolution", ""), "dw"),
            "layer dw has type DepthwiseConvolution, which this Caffe does not have",
        ),
        (replaced(MINI, '"Convolution"', '"Convolutoin"'), "(did you mean Convolution?)"),
        (V1.replace("RELU bottom", "ELU6 bottom", 1), "layer relu has type ELU6"),
        (
            V1.replace("RELU bottom", '"ReLU" bottom', 1),
            "type ReLU, which is written in `layer` and not in `layers` (did you mean RELU?)",
        ),
        (replaced(MINI, '"Convolution"', '"CONVOLUTION"'), "(did you mean Convolution?)"),
        (V0.replace('"relu" type: "relu"', '"relu" type: "relu6"'), "layer relu has type relu6"),
        ("foo: 1\n" + MINI, "line 1: this Caffe has no field `foo`"),
    ],
)
def test_places_without_a_translation(repository, text, says):
    """Named by their lines, whether --translate is given or not."""
    for options in ((), ("--translate", "stock.prototxt")):
        error = refused(text, *options)
        assert says in error and "line " in error and "--translate" not in error
    assert not Path("stock.prototxt").exists()


def test_what_is_not_kept_needs_no_translation(repository):
    """SSD's data layer and its detection layers, a hash loss: removed or replaced."""
    data = source(
        "AnnotatedData",
        "transform_param { mean_value: 9 resize_param { height: 16 width: 16 } "
        'distort_param { hue_prob: 0.5 } } data_param { source: "x" } '
        "annotated_data_param { a: 1 }",
    )
    end = 'layer { name: "p" type: "PriorBox" bottom: "conv" bottom: "data" top: "p" }'
    done = graft(data + BODY + end, *ONE)
    net = written(done)
    image = next(layer for layer in net.layer if layer.name == "data")
    assert list(image.transform_param.mean_value) == [9] and image.transform_param.crop_size == 16
    assert "not read     line 1: layer in has type AnnotatedData" in done.stdout
    assert "no field `transform_param.distort_param` of layer in" in done.stdout


def test_translate_while_listing(repository):
    done = graft(TRANSLATED["Axpy"][0], "--list-features", "--translate", "stock.prototxt")
    assert done.returncode == 0 and "wrote stock.prototxt" in done.stdout, done.stderr
    assert "axpy_scaled (Scale)" in done.stdout and Path("stock.prototxt").is_file()


def test_many_places_are_counted(repository):
    extra = "".join(f'layer {{ name: "x{n}" type: "Nonsense" }}\n' for n in range(20))
    done = graft(MINI + extra, *ONE)
    written(done)
    assert done.stdout.count("not read") == 9 and "and 12 more places" in done.stdout


def test_translate_replaces_nothing(repository):
    text = TRANSLATED["Axpy"][0]
    Path("stock.prototxt").write_text("mine")
    done = graft(text, *ONE, "--translate", "stock.prototxt")
    assert done.returncode == 1 and "stock.prototxt exists and is not replaced" in done.stderr
    assert Path("stock.prototxt").read_text() == "mine" and not Path("nets").exists()
    done = graft(text, *ONE, "--translate", "mini_deploy.prototxt")
    assert done.returncode == 1 and Path("mini_deploy.prototxt").read_text() == text
    done = graft(MINI, *ONE, "--translate", "new.prototxt")
    assert "nothing: new.prototxt is not written" in done.stdout
    assert not Path("new.prototxt").exists()


def test_listing_stops_at_layers_of_other_caffes(repository):
    done = graft(
        between('layer { name: "s" type: "Shuffle" bottom: "conv" top: "s" }', "s") + PROB,
        "--list-features",
        "--feature",
        "conv",
    )
    assert done.returncode == 0, done.stderr
    assert "* conv" in done.stdout and "fc1" not in done.stdout
    assert "not read     line 8: layer s has type Shuffle" in done.stdout


def test_weights_of_depthwise_layers_load(repository):
    """The translated layer has the shapes of the original's: one filter per channel."""
    text = TRANSLATED["ConvolutionDepthwise"][0]
    found = backbone(repository, forks.translate(text))
    assert found.weights["dw"] == [(4, 1, 3, 3)]


def test_upgraded_nets_run_in_caffe(repository):
    """A net grafted from each old format trains."""
    for number, text in enumerate((V0, V1)):
        written(
            graft(text, *ONE, "--net-name", f"n{number}"), f"nets/mine_n{number}_train_val.prototxt"
        )
        solver = f"nets/mine_n{number}_ours_solver.prototxt"
        subprocess.run(["caffe", "train", "-solver", solver], check=True, capture_output=True)
