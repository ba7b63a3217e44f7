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


def test_every_pair_has_net_deploy_and_a_solver_per_variant():
    assert len(COMMITTED) == 12 * len(tables.GRID)
    for dataset, net in tables.GRID:
        names = {path.name for path in COMMITTED if path.name.startswith(f"{dataset}_{net}_")}
        assert names == {f"{dataset}_{net}_{kind}.prototxt" for kind in (
            "train_val", "deploy", *(f"{variant}_solver" for variant in tables.STAGES))}


@pytest.mark.parametrize("path", [p for p in COMMITTED if "solver" not in p.name],
                         ids=lambda p: p.stem)
def test_nets_parse(path):
    net = read(path, caffe_pb2.NetParameter())
    assert net.layer and not net.layers and not net.input  # nothing that Caffe has to upgrade
    if path.stem.endswith("deploy"):
        assert net.layer[0].type == "Input"
        assert not any(layer.include or layer.exclude for layer in net.layer)


def test_solvers():
    prefixes = set()
    for path in COMMITTED:
        if not path.stem.endswith("solver"):
            continue
        values = read(path, caffe_pb2.SolverParameter())
        dataset = tables.DATASETS[path.stem.split("_")[0]]
        net = read(ROOT / values.net, caffe_pb2.NetParameter())
        batch, = {layer.data_param.batch_size for layer in net.layer
                  if layer.type == "Data" and layer.include[0].phase == caffe_pb2.TEST}
        assert list(values.test_iter) == [dataset.test // batch] and dataset.test % batch == 0
        assert values.max_iter % values.test_interval == 0  # the last weights are tested
        variant = path.stem.removesuffix("_solver").split("_", 2)[2]
        for states in (values.train_state, *values.test_state):
            assert tuple(states.stage) == tables.STAGES[variant]
        assert values.test_state or not tables.STAGES[variant]
        assert not values.HasField("solver_mode") and values.random_seed == 1
        assert values.snapshot_prefix == f"snapshots/{path.stem.removesuffix('_solver')}/model"
        prefixes.add(values.snapshot_prefix)
    assert len(prefixes) == 10 * len(tables.GRID)


def test_variants_differ_by_stages_and_snapshots_only():
    def values(variant):
        path = ROOT / f"prototxt/cars_alexnet_{variant}_solver.prototxt"
        message = read(path, caffe_pb2.SolverParameter())
        for field in ("train_state", "test_state", "snapshot_prefix"):
            message.ClearField(field)
        return message

    assert all(values(variant) == values("sm") for variant in tables.STAGES)


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
