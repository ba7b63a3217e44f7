"""tools/make_prototxt.py and what it writes: complete, in order, refused in clear words."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

import nets_data
from data_prep.hierarchy import TABLES, Hierarchy
from tools.nets import solver, tables

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "prototxt").glob("*.prototxt"))


def make(folder, *options):
    """Run the command in a folder."""
    return subprocess.run([sys.executable, ROOT / "tools/make_prototxt.py", *map(str, options)],
                          cwd=folder, capture_output=True, text=True)


def read(path, message):
    return text_format.Parse(path.read_text(), message)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a built data set of 12 -> 4 classes in data/mine; 9 training, 6 test images."""
    folder = tmp_path_factory.mktemp("repository")
    nets_data.build(folder / "data/mine", "mine", ("plant", "genus"), (12, 4), 227, train=9, test=6)
    return folder


def test_committed_files_are_current():
    result = make(ROOT, "--check")
    assert result.returncode == 0, result.stderr
    assert f"{len(COMMITTED)} files" in result.stdout


def test_check_names_what_differs(tmp_path):
    shutil.copytree(ROOT / "prototxt", tmp_path / "prototxt")
    (tmp_path / "prototxt/cub_alexnet_sm_solver.prototxt").write_text("base_lr: 1\n")
    (tmp_path / "prototxt/cars_alexnet_deploy.prototxt").unlink()
    (tmp_path / "prototxt/old_net.prototxt").write_text("")
    result = make(tmp_path, "--check")
    assert result.returncode == 1
    assert set(re.findall(r"\w+\.prototxt", result.stderr)) == {
        "cub_alexnet_sm_solver.prototxt", "cars_alexnet_deploy.prototxt", "old_net.prototxt"}
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def settings(dataset):
    """Names of the data set's settings: whole images, and images cut to their boxes."""
    return [dataset] if dataset == "cards" else [dataset, f"{dataset}_bbox"]


def test_every_pair_has_net_deploy_and_a_solver_per_setting_and_variant():
    expected = {f"{dataset}_{net}_{kind}.prototxt" for dataset, net in tables.GRID
                for kind in ("train_val", "deploy")}
    expected |= {f"{setting}_{net}_{variant}_solver.prototxt" for dataset, net in tables.GRID
                 for setting in settings(dataset) for variant in tables.STAGES}
    assert {path.name for path in COMMITTED} == expected
    # the paper's 3 data sets x 2 settings x 4 networks x 10 variants, CUB with SqueezeNet, cards
    assert sum("solver" in name for name in expected) == 240 + 20 + 30


@pytest.mark.parametrize("path", [p for p in COMMITTED if "solver" not in p.name],
                         ids=lambda p: p.stem)
def test_nets_parse(path):
    net = read(path, caffe_pb2.NetParameter())
    assert net.layer and not net.layers and not net.input  # nothing that Caffe has to upgrade
    if path.stem.endswith("deploy"):
        assert net.layer[0].type == "Input"
        assert not any(layer.include or layer.exclude for layer in net.layer)


@pytest.mark.parametrize("name", ["_".join(pair) for pair in tables.GRID])
def test_solvers(name):
    dataset, net = name.split("_")
    images = tables.DATASETS[dataset].test
    parsed = read(ROOT / f"prototxt/{name}_train_val.prototxt", caffe_pb2.NetParameter())
    batch, = {layer.data_param.batch_size for layer in parsed.layer
              if layer.type == "Data" and layer.include[0].phase == caffe_pb2.TEST}
    assert images % batch == 0
    for setting in settings(dataset):
        for variant, stages in tables.STAGES.items():
            experiment = f"{setting}_{net}_{variant}"
            path = ROOT / f"prototxt/{experiment}_solver.prototxt"
            values = read(path, caffe_pb2.SolverParameter())
            assert values.net == f"prototxt/{name}_train_val.prototxt"
            assert list(values.test_iter) == [images // batch]
            assert values.max_iter % values.test_interval == 0  # the last weights are tested
            stages += ("bbox",) * setting.endswith("_bbox")
            assert [tuple(state.stage) for state in (values.train_state, *values.test_state)] == (
                [stages, stages] if stages else [()])
            assert not values.HasField("solver_mode") and values.random_seed == 1
            assert values.snapshot_prefix == f"snapshots/{experiment}/model"
            assert path.read_text().count("\n") < 40


def test_exact_coverage():
    """No batch that divides is larger, up to 50 (bilinear CNN: 16): the paper's test sets."""
    for name, expected in (("cars_alexnet", (187, 43)), ("aircraft_vgg16", (101, 33)),
                           ("cub_googlenet", (2897, 2)), ("cars_bcnn", (731, 11))):
        text = (ROOT / f"prototxt/{name}_ours_solver.prototxt").read_text()
        assert re.search(r"test_iter: (\d+) +# x (\d+) per batch", text).groups() == tuple(
            map(str, expected))


@pytest.mark.parametrize("setting", ["cars", "cars_bbox"])
def test_variants_differ_by_stages_and_snapshots_only(setting):
    def values(variant, setting=setting):
        path = ROOT / f"prototxt/{setting}_alexnet_{variant}_solver.prototxt"
        message = read(path, caffe_pb2.SolverParameter())
        for field in ("train_state", "test_state", "snapshot_prefix"):
            message.ClearField(field)
        return message

    assert all(values(variant) == values("sm", "cars") for variant in tables.STAGES)


def test_a_solver_says_what_its_variant_adds():
    text = (ROOT / "prototxt/cars_alexnet_ours_solver.prototxt").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for stage in ("csm", "skip", "glm"):
        assert any(line.startswith(f"#   {stage}") for line in comments)
    assert "cars_alexnet_sm_solver" in text and "fc9_coarse" in text and "0.8" in text


@pytest.mark.parametrize("images, expected", [(8041, 43), (5794, 2), (3333, 33), (1389, 3), (7, 7)])
def test_batch_that_divides(images, expected):
    assert solver.batch_that_divides(images, 50) == expected


@pytest.mark.parametrize("name", list(tables.DATASETS))
def test_tables_agree_with_the_label_trees(name):
    if not (TABLES / f"{name}.tsv").exists():
        pytest.skip(f"data_prep/hierarchies has no {name}.tsv")
    tree = Hierarchy.read(TABLES / f"{name}.tsv")
    assert tables.DATASETS[name].sizes == tree.sizes
    assert tables.DATASETS[name].levels == tree.levels


def test_counts_of_the_cards():
    """The table's counts are those of data_prep/build_lmdb.py cards, where that was run."""
    manifest = ROOT / "data/cards/manifest.json"
    if not manifest.exists():
        pytest.skip("data/cards is not built")
    splits = json.loads(manifest.read_text())["splits"]
    cards = tables.DATASETS["cards"]
    assert (cards.train, cards.test) == (splits["train"]["images"], splits["test"]["images"])


def test_another_data_set(built):
    result = make(built, "--data", "data/mine", "--net", "squeezenet", "--out", "nets", "--variant",
                  "ours", "--name", "trial", "--train-batch", 3, "--max-iter", 7, "--base-lr", 0.01,
                  "--glm-json", '{"margins": [0.5, 2], "k": 3}')
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (built / "nets").iterdir()} == {
        f"trial_squeezenet_{kind}.prototxt" for kind in ("train_val", "deploy", "ours_solver")}
    values = read(built / "nets/trial_squeezenet_ours_solver.prototxt", caffe_pb2.SolverParameter())
    assert (values.max_iter, list(values.test_iter)) == (7, [1])
    assert values.base_lr == pytest.approx(0.01)
    assert (built / values.snapshot_prefix).parent.is_dir()
    net = read(built / values.net, caffe_pb2.NetParameter())
    layers = {layer.name: layer for layer in net.layer}
    data = [layer.data_param for layer in net.layer if layer.type == "Data"]
    assert {param.source for param in data} == {
        f"data/mine/{split}_{kind}" for split in ("train", "test") for kind in ("images", "labels")}
    assert [param.batch_size for param in data] == [3, 3, 6, 6]
    assert layers["fc8_fine"].inner_product_param.num_output == 12
    assert layers["fc9_coarse"].inner_product_param.num_output == 4
    assert "fc10_coarse" not in layers
    assert json.loads(layers["glm"].python_param.param_str) == {
        "k": 3, "margins": [0.5, 2], "within_gradient": "paper", "normalize": True}


@pytest.mark.parametrize("side, crop", [(150, 144), (256, 227)])
def test_cards_of_either_size(tmp_path, side, crop):
    """SqueezeNet reads small cards with a small crop, and large ones with its own."""
    nets_data.build(tmp_path / "data", "cards", ("card", "suit"), (8, 2), side, 1, 1)
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", 'my "nets"')
    assert result.returncode == 0, result.stderr
    values = read(tmp_path / 'my "nets"/cards_squeezenet_sm_solver.prototxt',
                  caffe_pb2.SolverParameter())
    net = read(tmp_path / values.net, caffe_pb2.NetParameter())
    images = [layer for layer in net.layer if layer.name == "data"]
    assert [layer.transform_param.crop_size for layer in images] == [crop, crop]


ONE = ("--data", "data/mine", "--net", "squeezenet", "--out", "refused")


@pytest.mark.parametrize("options, status, says", [
    (("--data", "data/none", *ONE[2:]), 1, "no manifest.json"),
    (ONE + ("--glm-json", '{"margin": [1, 1]}'), 1, "margins"),
    (ONE + ("--glm-json", '{"margins": [1]}'), 1, "one margin per level"),
    (ONE + ("--glm-json", '{"average": "all"}'), 1, "fine_classes"),
    (ONE + ("--glm-json", "nonsense"), 1, "not JSON"),
    (ONE + ("--name", "../escape"), 1, "file name"),
    (ONE + ("--max-iter", "0"), 2, "--max-iter"),
    (ONE + ("--max-iter", str(2**31)), 2, "--max-iter"),
    ((), 1, "repository's root"),
    (ONE[:4] + ("--out", "data/mine/manifest.json"), 1, "is no folder"),
    (ONE + ("--check",), 2, "--check"),
    (("--net", "squeezenet"), 2, "--dataset"),
    (("--dataset", "cub"), 2, "--net"),
    (("--dataset", "cub", "--data", "data/mine"), 2, "not allowed"),
])
def test_refusals(built, options, status, says):
    result = make(built, *options)
    assert result.returncode == status
    assert says in result.stderr and "Traceback" not in result.stderr
    assert not (built / "refused").exists()
    assert not (built / "prototxt").exists()


@pytest.mark.parametrize("manifest, says", [
    ("{", "can't be read"), ("[]", "can't be read"), ('{"name": "x"}', "can't be read"),
    ('{"name": "x", "options": {"size": 256}, "splits": {"train": {"images": 5}, '
     '"test": {"images": 0}}}', "0 test images"),
    ('{"name": "x", "options": {"size": "8"}, "splits": {"train": {"images": 5}, '
     '"test": {"images": 5}}}', "can't be read"),
    (None, "larger --size")])
def test_folders_that_cannot_be_used(tmp_path, manifest, says):
    folder = nets_data.build(tmp_path / "data", "x", ("a",), (3,), 8, train=1, test=1)
    if manifest:
        (folder / "manifest.json").write_text(manifest)
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", "refused")
    assert result.returncode == 1 and says in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
