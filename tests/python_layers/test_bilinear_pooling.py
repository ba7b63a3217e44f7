"""Bilinear pooling: its maths against loops and differences, and the layer in Caffe nets."""

import json
import tracemalloc
from itertools import product

import caffe
import numpy as np
import pytest
from batches import numeric_gradient

from python_layers import bilinear
from python_layers.bilinear_pooling import BilinearPoolingLayer

pytestmark = pytest.mark.filterwarnings("error")

SWITCHES = [
    dict(zip(("signed_sqrt", "l2_normalize"), values))
    for values in product((True, False), repeat=2)
]
switches = pytest.mark.parametrize(
    "settings", SWITCHES, ids=["-".join(n for n in s if s[n]) or "neither" for s in SWITCHES]
)
count = pytest.mark.parametrize("count", [1, 2])  # of bottoms
scales = pytest.mark.parametrize("scale", [1e-3, 1, 1e3])

PAPER = SWITCHES[0]


def random_maps(count, seed=0, samples=3, channels=(4, 3), positions=(2, 3), scale=1.0):
    """float32 feature maps whose products are all far from 0, where the square root has a kink."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        maps = [
            (rng.normal(size=(samples, c, *positions)) * scale).astype(np.float32)
            for c in channels[:count]
        ]
        if all(np.abs(reference(maps, False, False)).min(axis=1) > 0.05 * scale**2):
            return maps
    raise AssertionError("no such maps among 1000")


def reference(maps, signed_sqrt, l2_normalize):
    """The definition, in loops and float64: n x (c1 * c2)."""
    maps = [array.astype(np.float64) for array in maps]
    descriptors = []
    for a, b in zip(maps[0], maps[-1]):
        values = []
        for i, j in product(range(len(a)), range(len(b))):
            value = sum(float(a[(i, *at)] * b[(j, *at)]) for at in np.ndindex(a.shape[1:]))
            values.append(np.sign(value) * abs(value) ** 0.5 if signed_sqrt else value)
        length = sum(value**2 for value in values) ** 0.5
        descriptors.append(
            [value / length for value in values] if l2_normalize and length else values
        )
    return np.array(descriptors)


def reference_gradients(maps, settings, weights, step):
    """Central differences of sum(weights * descriptors), one array per map."""
    gradients = []
    for index, array in enumerate(maps):

        def loss(moved, index=index):
            moved = [*maps[:index], moved, *maps[index + 1 :]]
            return (reference(moved, **settings) * weights).sum()

        gradients.append(numeric_gradient(loss, array.astype(np.float64), step))
    return gradients


def flat(maps):
    return [array.reshape(*array.shape[:2], -1) for array in maps]


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@scales
@count
@switches
def test_maths_in_float64(settings, count, scale):
    maps = [array.astype(np.float64) for array in random_maps(count, scale=scale)]
    expected = reference(maps, **settings)
    weights = np.random.default_rng(1).normal(size=expected.shape)
    pooled = bilinear.forward(flat(maps), **settings)
    assert_close(pooled.descriptors.reshape(expected.shape), expected, 1e-14)
    gradients = pooled.gradients(flat(maps), weights.reshape(pooled.descriptors.shape))
    for actual, numeric in zip(
        gradients, reference_gradients(maps, settings, weights, 1e-5 * scale), strict=True
    ):
        assert actual.dtype == np.float64
        assert_close(actual.reshape(numeric.shape), numeric, 1e-7)


def make_net(
    tmp_path,
    shapes,
    settings=None,
    extra="force_backward: true",
    below="",
    bottoms=None,
    after="",
    param_str=None,
):
    """Inputs map_0, map_1 ... of these shapes -> the layer, bilinear."""
    inputs = "".join(
        f'layer {{ name: "map_{i}" type: "Input" top: "map_{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {d}" for d in shape)
        + " } } }\n"
        for i, shape in enumerate(shapes)
    )
    names = bottoms or [f"map_{i}" for i in range(len(shapes))]
    if param_str is None:
        param_str = json.dumps(settings or {})
    pooling = (
        'layer { name: "bilinear" type: "Python" top: "bilinear" '
        + " ".join(f'bottom: "{name}"' for name in names)
        + ' python_param { module: "python_layers.bilinear_pooling" layer: "BilinearPoolingLayer" '
        f"param_str: {json.dumps(param_str)} }} }}\n"
    )
    path = tmp_path / "net.prototxt"
    path.write_text(f"{extra}\n{inputs}{below}{pooling}{after}")
    return caffe.Net(str(path), caffe.TRAIN)


def run(net, maps, weights):
    """Forward, then backward from dLoss/dtop = weights: (descriptors, a gradient per map)."""
    for i, array in enumerate(maps):
        net.blobs[f"map_{i}"].reshape(*array.shape)
        net.blobs[f"map_{i}"].data[...] = array
        net.blobs[f"map_{i}"].diff[...] = 7  # a gradient is assigned, not added
    descriptors = net.forward()["bilinear"].copy()
    net.backward(bilinear=np.asarray(weights, np.float32))
    return descriptors, [net.blobs[f"map_{i}"].diff.copy() for i in range(len(maps))]


@scales
@count
@switches
def test_layer(tmp_path, settings, count, scale):
    """Batches of other sizes and maps of other sizes go through the same net."""
    net = None
    for seed, samples, positions in ((0, 3, (2, 3)), (1, 1, (1, 1)), (2, 4, (1, 3))):
        maps = random_maps(count, seed, samples, positions=positions, scale=scale)
        net = net or make_net(tmp_path, [array.shape for array in maps], settings)
        expected = reference(maps, **settings)
        weights = np.random.default_rng(seed).normal(size=expected.shape)
        descriptors, gradients = run(net, maps, weights)
        assert_close(descriptors, expected, 1e-5)
        for actual, numeric in zip(
            gradients, reference_gradients(maps, settings, weights, 1e-5 * scale), strict=True
        ):
            if samples == 1 and count == 1 and settings["l2_normalize"]:
                # One position and one map: what a change of length would add, L2 takes away.
                assert np.abs(actual - numeric).max() < 1e-4 * np.abs(weights).max() / scale
            else:
                assert_close(actual, numeric, 1e-3)


def test_parameters_default_to_the_paper(tmp_path):
    maps = random_maps(2)
    net = make_net(tmp_path, [array.shape for array in maps], param_str="")
    descriptors, _ = run(net, maps, np.ones((3, 12)))
    assert_close(descriptors, reference(maps, **PAPER), 1e-5)
    assert np.linalg.norm(descriptors, axis=1) == pytest.approx(1, abs=1e-5)


@switches
def test_one_bottom_equals_the_same_bottom_twice(tmp_path, settings):
    maps = random_maps(1)
    weights = np.random.default_rng(3).normal(size=(3, 16))
    once, twice = (
        run(make_net(tmp_path, [maps[0].shape], settings, bottoms=["map_0"] * times), maps, weights)
        for times in (1, 2)
    )
    assert_close(once[0], twice[0], 1e-6)
    assert_close(once[1][0], twice[1][0], 1e-5)


@count
@switches
def test_zero_features_give_zero_and_no_gradient(tmp_path, settings, count):
    """In one sample of three, and in all; the others are as if they were alone."""
    maps = random_maps(count)
    net = make_net(tmp_path, [array.shape for array in maps], settings)
    weights = np.random.default_rng(4).normal(size=reference(maps, **settings).shape)
    whole, whole_gradients = run(net, maps, weights)
    for zeros in ([1], [0, 1, 2]):
        for array in maps:
            array[zeros] = 0
        others = np.setdiff1d(range(3), zeros)
        descriptors, gradients = run(net, maps, weights)
        assert not descriptors[zeros].any()
        assert np.array_equal(descriptors[others], whole[others])
        for gradient, before in zip(gradients, whole_gradients):
            assert not gradient[zeros].any()
            assert np.array_equal(gradient[others], before[others])


def test_zero_products_have_the_derivative_at_the_smallest():
    """Channels that never fire together: z = 0 beside values that aren't."""
    a = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    diff = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    (gradient,) = bilinear.forward([a], l2_normalize=False).gradients([a], diff)
    slope = 0.5 / bilinear.SMALLEST**0.5
    assert gradient == pytest.approx(slope * np.array([[[0.0, 2.0], [1.0, 0.0]]]))
    # Exact from SMALLEST up.
    for value in (bilinear.SMALLEST, 3e-8, 1.0):
        b, c = np.full((1, 1, 1), value), np.ones((1, 1, 1))
        pooled = bilinear.forward([b, c], l2_normalize=False)
        assert pooled.gradients([b, c], c)[0] == pytest.approx(0.5 / value**0.5)


@pytest.mark.parametrize("learned", [0, 1])
def test_only_the_bottoms_asked_for_get_a_gradient(tmp_path, learned):
    """The other one's diff stays as it was; the loss's weight comes with the top's diff."""
    maps = random_maps(2)
    net = make_net(
        tmp_path,
        [array.shape for array in maps] + [(3, 12)],
        extra="",
        bottoms=["map_0", "moved"] if learned else ["moved", "map_1"],
        below=f'layer {{ name: "moved" type: "Bias" bottom: "map_{learned}" top: "moved" }}\n',
        after='layer { name: "loss" type: "EuclideanLoss" bottom: "bilinear" bottom: "map_2" '
        'top: "loss" loss_weight: 2 }',
    )
    other = f"map_{1 - learned}"
    for i, array in enumerate(maps):
        net.blobs[f"map_{i}"].data[...] = array
    net.blobs[other].diff[...] = 7
    net.blobs["map_2"].data[...] = np.random.default_rng(5).normal(size=(3, 12))
    net.forward()
    net.backward()
    weights = 2 * (reference(maps, **PAPER) - net.blobs["map_2"].data) / 3
    assert (net.blobs[other].diff == 7).all()
    assert_close(
        net.blobs["moved"].diff, reference_gradients(maps, PAPER, weights, 1e-5)[learned], 1e-3
    )


def test_nothing_is_computed_where_nothing_is_wanted():
    maps = flat(random_maps(2))
    assert bilinear.forward(maps).gradients(maps, None, [False, False]) == [None, None]


def test_two_layers_share_nothing(tmp_path):
    maps = random_maps(1)
    after = (
        'layer { name: "half" type: "Power" bottom: "map_0" top: "half" '
        "power_param { scale: 0.5 } }\n"
        'layer { name: "other" type: "Python" bottom: "half" bottom: "map_1" top: "other" '
        'python_param { module: "python_layers.bilinear_pooling" '
        'layer: "BilinearPoolingLayer" param_str: \'{"signed_sqrt": false}\' } }'
    )
    both = maps + [random_maps(2, seed=6)[1]]
    net = make_net(
        tmp_path,
        [array.shape for array in both],
        {"l2_normalize": False},
        bottoms=["map_0"],
        after=after,
    )
    for i, array in enumerate(both):
        net.blobs[f"map_{i}"].data[...] = array
    tops = net.forward()
    one = {"signed_sqrt": True, "l2_normalize": False}
    two = {"signed_sqrt": False, "l2_normalize": True}
    assert_close(tops["bilinear"], reference(maps, **one), 1e-5)
    assert_close(tops["other"], reference(both, **two), 1e-5)
    weights = [
        np.random.default_rng(i).normal(size=shape).astype(np.float32)
        for i, shape in enumerate([(3, 16), (3, 12)])
    ]
    net.backward(bilinear=weights[0], other=weights[1])
    expected = (
        reference_gradients(maps, one, weights[0], 1e-5)[0]
        + reference_gradients(both, two, weights[1], 1e-5)[0]
    )
    assert_close(net.blobs["map_0"].diff, expected, 1e-3)


def test_layers_that_work_in_place_on_the_top_do_not_disturb_the_gradient(tmp_path):
    maps = random_maps(2)
    shapes = [array.shape for array in maps]
    weights = np.random.default_rng(7).normal(size=(3, 12))
    expected = run(make_net(tmp_path, shapes), maps, 5 * weights)[1]
    net = make_net(
        tmp_path,
        shapes,
        after='layer { name: "scale" type: "Scale" bottom: '
        '"bilinear" top: "bilinear" scale_param { filler { value: 5 } } }',
    )
    for actual, gradient in zip(run(net, maps, weights)[1], expected):
        assert_close(actual, gradient, 1e-5)


def test_an_empty_batch():
    pooled = bilinear.forward([np.zeros((0, 4, 6), np.float32)])
    assert pooled.descriptors.shape == (0, 4, 4)
    (gradient,) = pooled.gradients([np.zeros((0, 4, 6), np.float32)], pooled.descriptors)
    assert gradient.shape == (0, 4, 6)


@count
def test_memory_at_the_papers_size(count):
    """VGG's conv5_3 at 448 x 448: 8 x 512 x 28 x 28, three arrays of the top's size at most."""
    rng = np.random.default_rng(8)
    maps = [
        np.maximum(rng.normal(size=(8, 512, 28 * 28)), 0).astype(np.float32) for _ in range(count)
    ]
    diff = rng.normal(size=(8, 512, 512)).astype(np.float32)
    tracemalloc.start()
    pooled = bilinear.forward(maps)
    forward_peak = tracemalloc.get_traced_memory()[1]
    gradients = pooled.gradients(maps, diff)
    peak = tracemalloc.get_traced_memory()[1] - sum(gradient.nbytes for gradient in gradients)
    tracemalloc.stop()
    assert pooled.descriptors.dtype == gradients[0].dtype == np.float32
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert forward_peak < 2.1 * diff.nbytes and peak < 3.1 * diff.nbytes


@pytest.mark.parametrize(
    "shapes, message",
    [
        (
            [(2, 3, 4, 5), (3, 3, 4, 5)],
            "bottom 0 is 2 x 3 x 4 x 5 and bottom 1 is 3 x 3 x 4 x 5; both need the same n, h and",
        ),
        ([(2, 3, 4, 5), (2, 3, 4, 6)], "bottom 1 is 2 x 3 x 4 x 6; both need the same n, h and w"),
        ([(2, 3, 4, 5), (2, 3, 5, 4)], "both need the same n, h and w"),  # as many positions
        ([(2, 3, 4, 5), (2, 3)], "bottom 1 is 2 x 3; it must be a feature map, n x c x h x w"),
        ([(2, 3, 4, 5)] * 3, "takes one feature map or two, not 3 bottoms"),
    ],
)
def test_bottoms_that_do_not_fit(tmp_path, shapes, message):
    with pytest.raises(ValueError, match="^BilinearPoolingLayer:? .*" + message):
        make_net(tmp_path, shapes)


@pytest.mark.parametrize(
    "bottoms, tops, message",
    [(0, 1, "takes one feature map or two, not 0 bottoms"), (1, 2, "has one top.*, not 2")],
)
def test_number_of_bottoms_and_tops(tmp_path, bottoms, tops, message):
    names = ['bottom: "map"'] * bottoms + [f'top: "top_{i}"' for i in range(tops)]
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "map" type: "Input" top: "map" input_param { shape { dim: 1 dim: 2 dim: 1 '
        f'dim: 1 }} }} }} layer {{ name: "bilinear" type: "Python" {" ".join(names)} '
        'python_param { module: "python_layers.bilinear_pooling" layer: "BilinearPoolingLayer" } }'
    )
    with pytest.raises(ValueError, match=f"^BilinearPoolingLayer {message}"):
        caffe.Net(str(path), caffe.TRAIN)


@pytest.mark.parametrize(
    "param_str, message",
    [
        ('{"signed_sqrt": 1}', '"signed_sqrt" must be true or false, not 1'),
        ('{"normalize": true}', 'unknown parameter "normalize".*"l2_normalize"'),
        ("[", "is not JSON"),
    ],
)
def test_wrong_parameters(tmp_path, param_str, message):
    with pytest.raises(ValueError, match=f"^{BilinearPoolingLayer.__name__}: .*{message}"):
        make_net(tmp_path, [(2, 3, 4, 5)], param_str=param_str)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@switches
def test_features_that_are_not_finite_or_too_large(tmp_path, settings, value):
    maps = random_maps(2)
    for array in maps:
        array[2, 1, 0] = value
    net = make_net(tmp_path, [array.shape for array in maps], settings)
    with pytest.raises(
        ValueError,
        match="^BilinearPoolingLayer: the products of the features of 1 "
        r"of 3 samples (hold nan or inf|are longer than 1e\+15, .*) \(first: sample 2\)",
    ):
        run(net, maps, np.ones((3, 12)))
