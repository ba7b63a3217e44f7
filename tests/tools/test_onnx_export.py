"""tools/onnx_export and Caffe, ONNX Runtime and OpenCV: layer types, pooling, refusals."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools.onnx_export import build, table
from tools.pycaffe import caffe, caffe_pb2

INPUT = """layer { name: "data" type: "Input" top: "data"
                   input_param { shape { dim: 1 dim: %d dim: %d dim: %d } } }
"""
GLOBAL = 'type: "Pooling" bottom: "data" top: "g" pooling_param { global_pooling: true pool: AVE }'
BILINEAR = 'module: "python_layers.bilinear_pooling" layer: "BilinearPoolingLayer"'
BATCH = 3


def net_of(*layers, shape=(4, 9, 7)):
    """NetParameter of layers without names, after an input of this shape."""
    text = "".join(
        f'layer {{ name: "layer{number}" {layer} }}\n' for number, layer in enumerate(layers)
    )
    net = text_format.Parse(INPUT % shape + text, caffe_pb2.NetParameter())
    return build.without_in_place(net)


def in_caffe(net, seed=0):
    """caffe.Net with random positive weights, after a forward pass of a random batch."""
    rng = np.random.default_rng(seed)
    with prototxt.as_file(net) as path:
        found = caffe.Net(path, caffe.TEST)
    data = found.blobs["data"]
    data.reshape(BATCH, *tuple(data.shape)[1:])
    found.reshape()
    for blobs in found.params.values():
        for blob in blobs:
            blob.data[...] = rng.uniform(0.1, 1, blob.data.shape)
    data.data[...] = rng.standard_normal(data.data.shape)
    found.forward()
    return found


def model_of(net, found):
    """onnx.ModelProto with all blobs as outputs. found: caffe.Net of the NetParameter."""
    weights = {name: [blob.data.copy() for blob in blobs] for name, blobs in found.params.items()}
    shapes = {name: tuple(blob.shape) for name, blob in found.blobs.items()}
    return build.build(net, weights, shapes, trace=True)


def check(net, seed=0):
    """All blobs are the same in Caffe, ONNX Runtime and OpenCV, for three images and for one."""
    found = in_caffe(net, seed)
    content = build.content(model_of(net, found))
    session = onnxruntime.InferenceSession(content)
    names = [output.name for output in session.get_outputs()]
    assert names
    images, ours = found.blobs["data"].data, {n: found.blobs[n].data.copy() for n in names}
    readers = [lambda data: session.run(names, {"data": data})]
    opencv = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))

    def in_opencv(data):
        opencv.setInput(data)
        return opencv.forward(names)

    readers.append(in_opencv)
    for read in readers:
        for part in (images, images[:1]):
            for name, values in zip(names, read(np.ascontiguousarray(part))):
                wanted = ours[name][: len(part)]
                values = values.reshape(wanted.shape)
                np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def one(kind, more="", bottoms=("data",), tops=("a",)):
    """A layer's text without its name."""
    return " ".join(
        (
            f'type: "{kind}"',
            *(f'bottom: "{bottom}"' for bottom in bottoms),
            *(f'top: "{top}"' for top in tops),
            more,
        )
    )


ABS = one("AbsVal", tops=("b",))
CASES = {
    "AbsVal": [ABS],
    "BNLL": [one("BNLL")],
    "BatchNorm, Scale and ReLU in place": [
        one("BatchNorm"),
        one("Scale", "scale_param { bias_term: true }", ("a",)),
        one("ReLU", "relu_param { negative_slope: 0.1 }", ("a",)),
    ],
    "BatchNorm of vectors": [one("Flatten"), one("BatchNorm", bottoms=("a",), tops=("b",))],
    "Bias": [one("Bias"), one("Bias", "bias_param { axis: 2 num_axes: -1 }", tops=("b",))],
    "Bias of one number": [one("Bias", "bias_param { axis: -1 num_axes: 0 }")],
    "Clip": [one("Clip", "clip_param { min: -0.5 max: 0.25 }")],
    "Convolution": [
        one(
            "Convolution",
            "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 "
            "pad_h: 1 pad_w: 0 group: 2 dilation: 2 }",
        )
    ],
    "Convolution of two, joined": [
        one(
            "Convolution",
            "convolution_param { num_output: 6 kernel_size: 3 bias_term: false }",
            ("data", "data"),
            ("a", "b"),
        ),
        one("Concat", bottoms=("a", "b"), tops=("c",)),
        one("Concat", "concat_param { axis: -1 }", ("a", "b"), ("d",)),
    ],
    "Deconvolution and Crop": [
        one(
            "Deconvolution",
            "convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2 }",
        ),
        one("Crop", "crop_param { axis: 2 offset: 1 }", ("a", "data"), ("b",)),
    ],
    "Deconvolution, dilated, per channel": [
        one(
            "Deconvolution",
            "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 "
            "bias_term: false dilation: 2 }",
        ),
        one("Crop", "crop_param { axis: 2 offset: 1 offset: 3 }", ("a", "data"), ("b",)),
    ],
    "Dropout": [one("Dropout"), one("Dropout", bottoms=("a",))],
    "ELU": [one("ELU", "elu_param { alpha: 0.5 }")],
    "Eltwise sum": [
        ABS,
        one("Eltwise", "eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }", ("data", "b", "data")),
        one("Eltwise", bottoms=("data", "b"), tops=("c",)),
    ],
    "Eltwise product and maximum": [
        ABS,
        one("Eltwise", "eltwise_param { operation: MAX }", ("data", "b"), ("c",)),
        one("Eltwise", "eltwise_param { operation: PROD }", ("data", "b", "c")),
    ],
    "Exp": [one("Exp"), one("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }", tops=("b",))],
    "Flatten": [
        one("Flatten"),
        one("Flatten", "flatten_param { axis: 1 end_axis: 2 }", tops=("b",)),
        one("Flatten", "flatten_param { axis: -2 }", tops=("c",)),
    ],
    "InnerProduct": [
        one("InnerProduct", "inner_product_param { num_output: 5 }"),
        one(
            "InnerProduct",
            "inner_product_param { num_output: 6 transpose: true bias_term: false }",
            ("a",),
            ("b",),
        ),
    ],
    "InnerProduct of later axes": [
        one("InnerProduct", "inner_product_param { num_output: 5 axis: 2 }"),
        one(
            "InnerProduct",
            "inner_product_param { num_output: 5 axis: -1 transpose: true bias_term: false }",
            tops=("b",),
        ),
    ],
    "LRN": [
        one("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.7 k: 2 }"),
        one(
            "LRN",
            "lrn_param { local_size: 5 alpha: 0.5 beta: 0.7 norm_region: WITHIN_CHANNEL }",
            tops=("b",),
        ),
    ],
    "Log": [ABS, one("Log", "log_param { base: 10 scale: 2 shift: 1 }", ("b",))],
    "MVN": [
        one("MVN"),
        one("MVN", "mvn_param { across_channels: true }", tops=("b",)),
        one("MVN", "mvn_param { normalize_variance: false }", tops=("c",)),
    ],
    "PReLU": [one("PReLU"), one("PReLU", "prelu_param { channel_shared: true }", tops=("b",))],
    "PReLU of vectors": [one("Flatten"), one("PReLU", bottoms=("a",))],
    "Parameter": [
        one("Parameter", "parameter_param { shape { dim: 4 } }", (), ("w",)),
        one("Scale", "scale_param { axis: 1 }", ("data", "w")),
        one("Parameter", "parameter_param { shape { dim: 4 dim: 9 dim: 7 } }", (), ("v",)),
        one("Bias", "bias_param { axis: 1 }", ("data", "v"), ("b",)),
    ],
    "Pooling": [
        f"{GLOBAL}",
        one("Pooling", "pooling_param { global_pooling: true }"),
        one("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", tops=("b",)),
    ],
    "Power": [
        one("Power", "power_param { power: 2 scale: 0.5 shift: 1 }"),
        one("Power", "power_param { scale: 0.5 }", tops=("b",)),
        one("Power", "power_param { power: 0 }", tops=("c",)),
        one("Power", "power_param { power: 0.5 scale: 0 shift: 4 }", tops=("d",)),
    ],
    "bilinear": [one("Python", f"python_param {{ {BILINEAR} }}")],
    "bilinear of length 0": [
        one("Power", "power_param { scale: 0 }", tops=("b",)),
        one("Python", f"python_param {{ {BILINEAR} }}", ("data", "b")),
    ],
    "bilinear of two, without roots or lengths": [
        one("Sigmoid", tops=("b",)),
        *(
            one(
                "Python",
                f"python_param {{ {BILINEAR} param_str: '{parameters}' }}",
                ("data", "b"),
                (f"c{number}",),
            )
            for number, parameters in enumerate(
                (
                    '{"signed_sqrt": false}',
                    '{"l2_normalize": false}',
                    '{"signed_sqrt": false, "l2_normalize": false}',
                )
            )
        ),
    ],
    "Reduction": [
        one("Reduction", "reduction_param { axis: 1 }"),
        one("Reduction", "reduction_param { axis: 2 operation: ASUM coeff: 0.5 }", tops=("b",)),
        one("Reduction", "reduction_param { axis: -1 operation: SUMSQ }", tops=("c",)),
        one("Reduction", "reduction_param { axis: 2 operation: MEAN }", tops=("d",)),
    ],
    "Reshape": [
        one("Reshape", "reshape_param { shape { dim: 0 dim: 2 dim: -1 } }"),
        one(
            "Reshape",
            "reshape_param { shape { dim: 2 dim: -1 } axis: 1 num_axes: 2 }",
            tops=("b",),
        ),
    ],
    "SPP": [
        one("SPP", "spp_param { pyramid_height: 2 pool: AVE }"),
        one("SPP", "spp_param { pyramid_height: 2 pool: MAX }", tops=("b",)),
        one("SPP", "spp_param { pyramid_height: 1 pool: MAX }", tops=("c",)),
    ],
    "Scale by SENet's factors": [
        GLOBAL,
        one("Flatten", bottoms=("g",), tops=("f",)),
        one("Scale", "scale_param { axis: 0 }", ("data", "f")),
    ],
    "Slice, Silence and Split": [
        one("Slice", "slice_param { slice_point: 1 slice_point: 3 }", tops=("a", "b", "c")),
        one("Silence", bottoms=("b",), tops=()),
        one("Split", bottoms=("c",), tops=("d", "e")),
        one("Slice", tops=("f",)),
    ],
    "Softmax": [one("Softmax"), one("Softmax", "softmax_param { axis: -1 }", tops=("b",))],
    "Swish and TanH": [one("Swish", "swish_param { beta: 0.7 }"), one("TanH", tops=("b",))],
    "Threshold": [one("Threshold", "threshold_param { threshold: 0.3 }")],
    "Tile": [
        one("Tile", "tile_param { axis: 1 tiles: 2 }"),
        one("Tile", "tile_param { axis: -1 tiles: 3 }", tops=("b",)),
    ],
}


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_layers(layers):
    check(net_of(*layers))


def test_every_type_is_known():
    """A type of this Caffe is written, or refused with a reason; each that is written is tested."""
    layer = build.Layer(caffe_pb2.LayerParameter(name="x"), (), (), (), (), ())
    for kind in caffe.layer_type_list():
        layer.proto.type = kind
        try:
            table.writer(layer)
        except UserError as error:
            assert f"layer x ({kind}) can't be written as ONNX: " in str(error)
            assert "not known" not in str(error) or kind == "Input"
    tested = {layer.type for layers in CASES.values() for layer in net_of(*layers).layer}
    assert set(table.WRITERS) <= tested


def test_pooling_has_caffes_arithmetic():
    """150 random windows: rounded up and down, padded, clipped, of both kinds."""
    rng = np.random.default_rng(0)
    refused = agreed = clipped = 0
    while agreed < 150:
        kernel, stride = rng.integers(1, 6, 2), rng.integers(1, 5, 2)
        pad = [rng.integers(side) for side in kernel]
        height, width = np.maximum(rng.integers(3, 14, 2), kernel)
        net = net_of(
            one(
                "Pooling",
                f"pooling_param {{ pool: {rng.choice(['MAX', 'AVE'])} kernel_h: {kernel[0]} "
                f"kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
                f"pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {rng.choice(['CEIL', 'FLOOR'])} }}",
            ),
            shape=(2, height, width),
        )
        try:
            check(net, seed=agreed)
            agreed += 1
            clipped += any(
                (height + 2 * pad[0] - kernel[0], width + 2 * pad[1] - kernel[1]) % stride
            )
        except UserError as error:  # there Caffe reads no value at all
            assert "lies outside of its input (stride above kernel size)" in str(error)
            assert any(stride > kernel)
            refused += 1
    assert clipped > 50 and refused < 20


@pytest.mark.parametrize(
    "layer, says",
    [
        (one("ArgMax"), "layer layer0 (ArgMax) can't be written as ONNX: it turns numbers"),
        (one("Im2col", "convolution_param { kernel_size: 2 }"), "no operator has its result"),
        (one("BatchNorm", "batch_norm_param { use_global_stats: false }"), "of the batch"),
        (one("Pooling", "pooling_param { kernel_size: 2 }", tops=("a", "b")), "second top"),
        (one("Softmax", "softmax_param { axis: 0 }"), "along axis 0"),
        (one("Flatten", "flatten_param { axis: 0 }"), "without the 3 images"),
        (one("Reshape", "reshape_param { shape { dim: -1 dim: 7 } }"), "without the 3 images"),
        (one("Concat", "concat_param { axis: 0 }", ("data", "data")), "without the 3 images"),
        (one("Tile", "tile_param { axis: 0 tiles: 2 }"), "without the 3 images"),
        (one("Reduction"), "without the 3 images"),
        (
            one("Python", f"python_param {{ {BILINEAR.replace('bilinear_pooling', 'x')} }}"),
            "only Caffe can run the Python code of python_layers.x.BilinearPoolingLayer",
        ),
    ],
)
def test_refusals(layer, says):
    net = net_of(layer)
    other = net_of(layer.replace(".x", ".bilinear_pooling"))
    with pytest.raises(UserError) as refused:
        model_of(net, in_caffe(other))
    assert says in str(refused.value)


def test_a_model_that_is_not_valid_is_refused():
    """By ONNX's checker, and by its shapes, which must be Caffe's."""
    net = net_of(one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }"))
    found = in_caffe(net)
    shapes = {"data": (3, 4, 9, 7), "a": (3, 4, 4, 4)}
    with pytest.raises(UserError, match="not valid"):
        build.build(net, {}, shapes)
    with pytest.raises(UserError, match="a net with one input is needed, this one has 0"):
        del net.layer[0]
        model_of(net, found)


def test_names_and_bytes():
    """The last layer of several in place keeps the blob's name; the same net has the same bytes."""
    layers = [one("Sigmoid"), one("Power", "power_param { scale: 2 }", ("a",)), ABS]
    net = net_of(*layers)
    assert [list(layer.top) for layer in net.layer] == [["data"], ["a@layer0"], ["a"], ["b"]]
    on_input = net_of(one("Power", "power_param { scale: 2 }", tops=("data",)), ABS)
    assert [*on_input.layer[1].top, *on_input.layer[2].bottom] == ["data@layer0"] * 2
    check(on_input)
    models = [model_of(net, in_caffe(net)) for _ in range(2)]
    assert build.content(models[0]) == build.content(models[1])
    assert [value.domain or "ai.onnx" for value in models[0].opset_import] == ["ai.onnx"]
    onnx.checker.check_model(models[0])
