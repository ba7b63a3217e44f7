"""Models of all levels and FGoN: what tests and deploy nets answer, and which way gradients go."""

import json

import caffe
import numpy as np
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import run
from google.protobuf import text_format

from tools.nets import deploy, stock, tables

MODELS = ("bgl", "conditional_softmax")
FINE, GROUPS, HALVES = tiny.TREE.sizes
TRUE = [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        tiny.data_set(folder, TRUE, TRUE, split)
    return folder


def trained(folder, seed=0, std=0.02):
    """A caffemodel whose classifiers, of the pixels, are random: path."""
    rng, net = np.random.default_rng(seed), caffe_pb2.NetParameter()
    for name, classes in zip(("fc8_fine", "fc9_coarse", "fc10_coarse"), tiny.TREE.sizes):
        layer = net.layer.add(name=name, type="InnerProduct")
        for shape in ((classes, 3 * tiny.SIDE**2), (classes,)):
            values = rng.normal(0, std, size=shape).astype(np.float32)
            layer.blobs.add(data=values.ravel()).shape.dim.extend(shape)
    path = folder / "trained.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path


def deploy_net(folder, data, variant, weights):
    """(deploy NetParameter, its caffe.Net with the weights)."""
    tiny.solver(folder, data, tables.STAGES[variant])
    whole = text_format.Parse(
        (folder / "tiny_train_val.prototxt").read_text(), caffe_pb2.NetParameter()
    )
    message = deploy.deploy(whole, tables.STAGES[variant], 3, (3, tiny.SIDE, tiny.SIDE))
    return message, loaded(folder, message, weights)


def loaded(folder, message, weights):
    (folder / "deploy.prototxt").write_text(str(message))
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST)
    net.copy_from(str(weights))
    return net


def answers(net, images):
    net.blobs["data"].reshape(*images.shape)
    net.reshape()
    net.blobs["data"].data[...] = images
    return {name: values.copy() for name, values in net.forward().items()}


def expected(variant, weights, images):
    """Probabilities of each level by the definitions, float64, without the layers."""
    layers = caffe_pb2.NetParameter.FromString(weights.read_bytes()).layer
    scores = []
    for layer in layers:
        matrix, bias = (np.array(blob.data) for blob in layer.blobs)
        scores.append(images.reshape(len(images), -1) @ matrix.reshape(len(bias), -1).T + bias)
    fine = np.ones((len(images), FINE))
    for j, f in enumerate(scores):
        of = tiny.LABELS[:, j]
        if variant == "bgl":
            fine *= np.exp(f)[:, of]
            continue
        above = tiny.LABELS[:, j + 1] if j + 1 < 3 else np.zeros(FINE, int)
        for i in range(FINE):
            siblings = sorted(set(of[above == above[i]]))
            fine[:, i] *= np.exp(f[:, of[i]]) / np.exp(f[:, siblings]).sum(axis=1)
    fine /= fine.sum(axis=1, keepdims=True)
    return [
        np.stack([fine[:, tiny.LABELS[:, j] == c].sum(axis=1) for c in range(size)], axis=1)
        for j, size in enumerate(tiny.TREE.sizes)
    ]


OUTPUTS = ["prob_fine", "prob_fc9_coarse", "prob_fc10_coarse"]


@pytest.mark.parametrize("variant", MODELS)
def test_deploy_gives_the_models_probabilities(tmp_path, data, variant):
    """With the Python layer, and with stock layers alone in its place."""
    weights = trained(tmp_path)
    images = np.random.default_rng(1).uniform(0, 30, size=(5, 3, 8, 8)).astype(np.float32)
    message, net = deploy_net(tmp_path, data, variant, weights)
    wanted = dict(zip(OUTPUTS, expected(variant, weights, images.astype(np.float64))))
    found = answers(net, images)
    assert set(found) == set(OUTPUTS)
    for name, probabilities in wanted.items():
        assert found[name] == pytest.approx(probabilities, rel=1e-4, abs=1e-6)
    raw = net.blobs["fc8_fine"].data.argmax(axis=1)
    assert np.array_equal(raw, wanted["prob_fine"].argmax(axis=1))

    exported = stock.replaced(message)
    assert not any(layer.type == "Python" for layer in exported.net.layer)
    own = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    for name, arrays in exported.weights.items():
        layer = own.layer.add(name=name, type="InnerProduct")
        for array in arrays:
            layer.blobs.add(data=array.ravel()).shape.dim.extend(array.shape)
    (tmp_path / "stock.caffemodel").write_bytes(own.SerializeToString())
    without = loaded(tmp_path, exported.net, tmp_path / "stock.caffemodel")
    assert set(without.outputs) == set(OUTPUTS)
    for scale in (1, 40):  # at 40, scores are hundreds apart
        python, plain = answers(net, images * scale), answers(without, images * scale)
        for name in OUTPUTS:
            assert plain[name] == pytest.approx(python[name], rel=1e-4, abs=1e-6)
            assert plain[name].sum(axis=1) == pytest.approx(1)


def test_stock_layers_of_some_levels_and_of_one(tmp_path, data):
    tree = {"hierarchy": str(data / "hierarchy.tsv"), "levels": ["kind", "half"]}
    for blobs, sizes, given in (
        (["fc8_fine", "fc9_coarse"], (FINE, HALVES), tree),
        (["fc8_fine"], (FINE,), tree | {"levels": ["kind"]}),
    ):
        for name, kind in (("bgl", "BGL"), ("conditional_softmax", "Conditional")):
            net = caffe_pb2.NetParameter()
            for blob, size in zip(blobs, sizes):
                shape = dict(shape=[dict(dim=[4, size])])
                net.layer.add(name=blob, type="Input", top=[blob], input_param=shape)
            net.layer.add(
                name=f"{name}_marginals",
                type="Python",
                bottom=blobs,
                top=blobs,
                python_param=dict(
                    module=f"python_layers.{name}_loss",
                    layer=f"{kind}MarginalsLayer",
                    param_str=json.dumps(given),
                ),
            )
            for blob, output in zip(blobs, OUTPUTS):
                net.layer.add(name=output, type="Softmax", bottom=[blob], top=[output])
            scores = [np.random.default_rng(2).normal(size=(4, size)) for size in sizes]
            found = []
            for message, constants in (
                (net, {}),
                (lambda plain: (plain.net, plain.weights))(stock.replaced(net)),
            ):
                (tmp_path / "net.prototxt").write_text(str(message))
                one = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
                for layer, arrays in constants.items():
                    for blob, array in zip(one.params[layer], arrays, strict=True):
                        assert blob.data.shape == array.shape
                        blob.data[...] = array
                for blob, values in zip(blobs, scores):
                    one.blobs[blob].data[...] = values
                found.append(one.forward())
            for output in OUTPUTS[: len(blobs)]:
                assert found[1][output] == pytest.approx(found[0][output], rel=1e-5)


def test_stock_layers_refuse_a_graph_of_attributes(data):
    net = caffe_pb2.NetParameter()
    given = {"hierarchy": str(data / "hierarchy.tsv"), "attributes": ["a.tsv"]}
    net.layer.add(
        name="bgl_marginals",
        type="Python",
        bottom=["fc8_fine"],
        top=["fc8_fine"],
        python_param=dict(param_str=json.dumps(given)),
    )
    with pytest.raises(ValueError, match="graph of attributes, which stock layers can't"):
        stock.replaced(net)


@pytest.mark.parametrize("variant", MODELS)
def test_evaluation_decides_by_the_model(tmp_path, data, variant):
    """arg max p of each level, which differs from that of the classifiers' scores."""
    weights = trained(tmp_path, seed=3)
    pixels = np.stack([tiny.image(c).transpose(2, 0, 1) for c in TRUE]).astype(np.float64)
    wanted = expected(variant, weights, pixels)
    solver = tiny.solver(tmp_path, data, tables.STAGES[variant])
    out = tmp_path / "result.json"
    done = run("evaluate", "--solver", solver, "--weights", weights, "--out", out)
    assert done.returncode == 0, done.stderr
    header, *rows = (line.split("\t") for line in out.with_suffix(".tsv").read_text().splitlines())
    columns = dict(zip(header, zip(*rows)))
    for level, probabilities in zip(tiny.TREE.levels, wanted):
        predicted = np.array(columns[f"{level}_predicted"], int)
        assert np.array_equal(predicted, probabilities.argmax(axis=1))
        sure = np.array(columns[f"{level}_probability"], float)
        assert sure == pytest.approx(probabilities.max(axis=1), abs=1e-5)
    layers = caffe_pb2.NetParameter.FromString(weights.read_bytes()).layer
    matrix = np.array(layers[0].blobs[0].data).reshape(FINE, -1)
    raw = (pixels.reshape(len(pixels), -1) @ matrix.T + layers[0].blobs[1].data).argmax(axis=1)
    assert not np.array_equal(raw, wanted[0].argmax(axis=1))  # the test can tell them apart


def fgon_solver(folder, data):
    return tiny.solver(
        folder,
        data,
        tables.STAGES["fgon"],
        embedding=17,
        more="random_seed: 5 test_iter: 1 test_interval: 9",
    )


def test_coarse_classifiers_send_no_gradient_into_finer_parts(tmp_path, data):
    """Parts of 5, 6 and 6 values: each gets the gradient of its own level's loss alone, which
    agrees with finite differences of that loss."""
    net = caffe.SGDSolver(str(fgon_solver(tmp_path, data))).net
    parts = [f"part_{tag}" for tag in ("fine", "fc9_coarse", "fc10_coarse")]
    losses = ["loss_fine", "loss_fc9_coarse", "loss_fc10_coarse"]
    cuts = [0, 5, 11, 17]
    assert [net.blobs[part].shape[1] for part in parts] == [5, 6, 6]
    for _ in range(2):  # a second pass finds what the first one left in the blobs
        net.forward()
        net.backward()
    whole = net.blobs["dropped"].diff.copy()
    dropped = net.blobs["dropped"].data.copy()
    first = list(net._layer_names).index("parts")

    def of_losses(values):
        net.blobs["dropped"].data[...] = values
        net._forward(first, len(net.layers) - 1)
        return np.array([float(net.blobs[loss].data) for loss in losses])

    rng, step = np.random.default_rng(0), 1e-2
    for start, end, level in zip(cuts, cuts[1:], range(3)):
        direction = np.zeros_like(dropped)
        direction[:, start:end] = rng.normal(size=(len(dropped), end - start))
        up, down = (of_losses(dropped + sign * step * direction) for sign in (1, -1))
        slopes = (up - down) / (2 * step)  # of each loss
        assert (whole * direction).sum() == pytest.approx(slopes[level], rel=2e-2, abs=1e-4)
        reads = [j >= level for j in range(3)]  # forward, a coarse classifier does read it
        assert [abs(slope) > 1e-5 for slope in slopes] == reads


def test_fgon_trains_every_part_and_classifier(tmp_path, data):
    solver = caffe.SGDSolver(str(fgon_solver(tmp_path, data)))
    heads = {name: solver.net.params[name][0].data.copy() for name in solver.net.params}
    assert [heads[name].shape[1] for name in ("fc8_fine", "fc9_coarse", "fc10_coarse")] == [
        5,
        11,
        17,
    ]
    solver.step(1)
    for name, before in heads.items():
        assert np.any(solver.net.params[name][0].data != before), name
