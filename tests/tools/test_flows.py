"""tools/flows.py: the gradient of each loss is what a net with that loss alone computes."""

import csv

import numpy as np
import pytest
import tiny
from caffe.proto import caffe_pb2
from commands import assert_error, run
from google.protobuf import text_format

from tools import flows, solver_net
from tools.flow_meter import FlowMeter
from tools.nets import tables

TRUE = [0, 1, 2, 3, 4, 5, 0, 2]
MEMORY = dict(given=dict(glm=dict(memory=6)))
# All variants, and what a second backward pass could disturb: a memory, several batches a step.
CASES = [
    *((variant, {}, "") for variant in tables.STAGES),
    ("ours", MEMORY, ""),
    ("ours", dict(weights=dict(glm=0)), ""),
    ("ours", MEMORY, "iter_size: 2"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        tiny.data_set(folder, TRUE, [5, 1, 2, 3, 4, 0, 0, 3], split)
    return folder


def make(folder, data, variant, more="", **losses):
    stages = tables.STAGES[variant]
    return tiny.solver(folder, data, stages, embedding=16, more=f"random_seed: 5 {more}", **losses)


def started(path):
    return flows.training(solver_net.read_solver(path))


def gradient_of(path, loss):
    """The feature's gradient in the first iteration with loss_weight 0 for all losses but one."""
    net_path = path.parent / "tiny_train_val.prototxt"
    text = net_path.read_text()
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    for layer in net.layer:
        if layer.loss_weight and layer.top[0] != loss:
            layer.loss_weight[0] = 0
    net_path.write_text(str(net))
    solver = started(path)
    net_path.write_text(text)
    solver.step(1)
    return solver.net.blobs["feature"].diff.copy()


@pytest.mark.parametrize("variant, losses, more", CASES)
def test_flows(tmp_path, data, variant, losses, more):
    """Alone as in a net of its own; the sum is the whole; the training goes on as without."""
    path = make(tmp_path, data, variant, more, **losses)
    slower = path.read_text().replace("base_lr: 0.01", "base_lr: 0.0001")  # than divergence
    path.write_text(slower)
    solver, found = started(path), []
    meter = FlowMeter(solver.net, "feature")
    flows.run(solver, meter, 5, 2, found)
    assert [one.iteration for one in found] == [0, 2, 4, 5]
    assert all(one.norm > 0 and one.deviation < 1e-6 for one in found)
    rows = [tables.LOSSES[stage] for stage in tables.STAGES[variant] if stage in tables.LOSSES]
    expected = [] if any(row.scored for row in rows) else ["loss_fine"]
    if expected and "csm" in tables.STAGES[variant]:
        expected += ["loss_fc9_coarse", "loss_fc10_coarse"]
    expected += [f"{row.name}_loss" for row in rows if losses.get("weights", {}).get(row.name) != 0]
    assert list(meter.losses) == meter.reaching == expected
    if "iter_size" not in more:
        for flow in found[0].flows:
            assert flow.norm == pytest.approx(
                np.linalg.norm(gradient_of(path, flow.loss)), rel=1e-5
            )
    assert all(sum(flow.share for flow in one.flows) == pytest.approx(1) for one in found)

    plain = started(path)
    plain.step(6)
    for name, blobs in plain.net.params.items():
        for blob, measured in zip(blobs, solver.net.params[name]):
            assert np.array_equal(blob.data, measured.data), name


def test_layers_in_place(tmp_path, data):
    """The feature is what comes after a ReLU in place, although its gradient is overwritten."""
    path, measured = make(tmp_path, data, "ours"), []
    net = tmp_path / "tiny_train_val.prototxt"
    for top in ("embedding", "feature"):
        net.write_text(net.read_text().replace('top: "embedding"', f'top: "{top}"'))
        net.write_text(net.read_text().replace('bottom: "embedding"', f'bottom: "{top}"'))
        solver, found = started(path), []
        flows.run(solver, FlowMeter(solver.net, "feature"), 2, 1, found)
        measured.append([(one.flows, one.norm) for one in found])
        assert all(one.deviation < 1e-6 for one in found)
    assert measured[0] == measured[1]


def test_flow_is_that_of_the_diagnostics(tmp_path, data):
    solver = started(make(tmp_path, data, "ours"))
    meter, found = FlowMeter(solver.net, "feature"), []
    flows.run(solver, meter, 0, 1, found)
    (glm,) = (flow for flow in found[0].flows if flow.loss == "glm_loss")
    assert glm.weight == pytest.approx(0.8) and glm.norm > 0
    assert glm.norm == pytest.approx(solver.net.blobs["glm_diagnostics"].data[-1], rel=1e-4)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, data):
    """Solver of OURS."""
    return make(tmp_path_factory.mktemp("ours"), data, "ours", "max_iter: 9")


def test_command(ours, tmp_path):
    """The table and the TSV, in which a loss that does not depend on the blob has no gradient."""
    out = tmp_path / "new/flows.tsv"
    done = run("flows", "--solver", ours, "--iterations", 3, "--every", 2, "--tsv", out)
    assert done.returncode == 0, done.stderr
    title, header, *rows = done.stdout.splitlines()
    assert "into feature" in title and f"wrote {out}" == rows.pop()
    assert "0.8 x glm_loss" in header and header.split()[-2:] == ["all", "deviation"]
    assert [row.split()[0] for row in rows] == ["0", "2", "3"]
    again = run("flows", "--solver", ours, "--iterations", 3, "--every", 2, fresh=True)
    assert again.stdout == done.stdout[: done.stdout.index("wrote")]

    done = run("flows", "--solver", ours, "--iterations", 0, "--blob", "fc9_coarse", "--tsv", out)
    assert done.returncode == 0, done.stderr
    assert "not dependent on fc9_coarse: loss_fine, glm_loss" in done.stdout
    with open(out, newline="") as file:
        written = {row["loss"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert {loss: float(row["gradient"]) > 0 for loss, row in written.items()} == {
        "loss_fine": False,
        "loss_fc9_coarse": True,
        "loss_fc10_coarse": True,
        "glm_loss": False,
    }
    assert float(written["glm_loss"]["weight"]) == pytest.approx(0.8)


def test_weights(ours, tmp_path):
    """The given weights are used, and layers that they lack are named."""
    given = tiny.weights(tmp_path / "w.caffemodel", 1)
    model = caffe_pb2.NetParameter.FromString(given.read_bytes())
    model.layer[0].name = "embedding"
    done = run("flows", "--solver", ours, "--iterations", 0, "--weights", given)
    assert_error(done, "does not fit the net: fc8_fine has the shapes")
    solver = started(ours)
    solver.net.params["embedding"][0].data[...] *= 3
    for name in ("fc9_coarse", "fc10_coarse"):
        solver.net.params[name][0].data[...] = 0
    solver.net.save(str(given))
    first, second = (
        run("flows", "--solver", ours, "--iterations", 0, *more).stdout.splitlines()
        for more in ((), ("--weights", given))
    )
    assert first[2] != second[2] and len(first) == len(second) == 3
    model = caffe_pb2.NetParameter.FromString(given.read_bytes())
    kept = [layer for layer in model.layer if not layer.name.startswith("fc9")]
    del model.layer[:]
    model.layer.extend(kept)
    given.write_bytes(model.SerializeToString())
    done = run("flows", "--solver", ours, "--iterations", 0, "--weights", given)
    assert done.stdout.splitlines()[-1] == "random at the start: fc9_coarse"


@pytest.mark.parametrize(
    "options, says",
    [
        (("--solver", "none.prototxt"), "solver none.prototxt not found"),
        (("--blob", "fc7"), "has no blob fc7 in training"),
        (("--blob", "label_1"), "no layer before label_1 is trained"),
        (("--blob", "data"), "no layer before data is trained"),
        (("--iterations", "10"), "trains for 9"),
        (("--weights", "none.caffemodel"), "none.caffemodel not found"),
        (("--tsv", "/dev/null/x.tsv"), "/dev/null"),
    ],
)
def test_refusals(ours, options, says):
    assert_error(run("flows", "--solver", ours, "--iterations", 0, *options), says)


def test_missing_data(tmp_path):
    path = make(tmp_path, tmp_path / "none", "ours")
    assert_error(run("flows", "--solver", path), "train_images is not there: make the data set")


def test_a_fixed_feature(tmp_path, data):
    path = tiny.solver(tmp_path, data, ("csm", "glm"))
    assert_error(run("flows", "--solver", path), "no layer before data is trained")


def test_a_net_without_the_head(tmp_path, data):
    path = make(tmp_path, data, "sm")
    net = tmp_path / "tiny_train_val.prototxt"
    net.write_text(net.read_text().replace("fc8_fine", "classifier"))
    assert_error(run("flows", "--solver", path), "name a blob of it with --blob")
    done = run("flows", "--solver", path, "--iterations", 0, "--blob", "feature")
    assert done.returncode == 0 and "loss_fine" in done.stdout, done.stderr


def test_divergence(tmp_path, data):
    """Measurements made before the divergence are printed."""
    path = make(tmp_path, data, "ours")
    path.write_text(path.read_text().replace("base_lr: 0.01", "base_lr: 1e30"))
    done = run("flows", "--solver", path, "--iterations", 5)
    assert done.returncode == 1 and done.stdout.splitlines()[2].split()[0] == "0"
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_deviation_ends_with_status_1(tmp_path, data):
    """A layer whose backward pass is not linear in the gradient: the flows do not add up."""
    path = make(tmp_path, data, "ours")
    proto = text_format.Parse(
        (tmp_path / "tiny_train_val.prototxt").read_text(), caffe_pb2.NetParameter()
    )
    for layer in proto.layer:
        for i, bottom in enumerate(layer.bottom):
            if bottom == "dropped":
                layer.bottom[i] = "clipped"
    clip = caffe_pb2.LayerParameter(
        name="clip",
        type="Python",
        bottom=["dropped"],
        top=["clipped"],
        python_param=dict(module="clip_gradient_layer", layer="ClipGradientLayer"),
    )
    at = next(i for i, layer in enumerate(proto.layer) if layer.name == "dropped")
    proto.layer.insert(at + 1, clip)
    (tmp_path / "tiny_train_val.prototxt").write_text(str(proto))
    (tmp_path / "clip_gradient_layer.py").write_text(
        "import caffe\n"
        "class ClipGradientLayer(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data\n"
        "    def backward(self, top, down, bottom):\n"
        "        bottom[0].diff[...] = top[0].diff.clip(-1e-3, 1e-3)\n"
    )
    done = run(
        "flows", "--solver", path, "--iterations", 0, "--blob", "feature", PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 1, done.stdout
    assert "the sum of the gradients deviates from the whole" in done.stderr.splitlines()[-1]
