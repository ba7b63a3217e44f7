"""tools/make_prototxt.py and what it writes: complete, in order, refused in clear words."""

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path

import caffe
import nets_data
import numpy as np
import programs
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from data_prep import readers
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.readers.cards import read_decks
from tools.nets import data, datasets, files, rules, solver, tables

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "prototxt").glob("*.prototxt"))


EVERY = [part for variant in tables.STAGES for part in ("--variant", variant)]


def make(folder, *options, fresh=False):
    """Run the command in a folder."""
    return programs.run("tools/make_prototxt.py", *options, cwd=folder, fresh=fresh)


def read(path, message):
    return text_format.Parse(path.read_text(), message)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a built data set of 12 -> 4 classes in data/mine; 9 training, 6 test images."""
    folder = tmp_path_factory.mktemp("repository")
    nets_data.build(folder / "data/mine", "mine", ("plant", "genus"), (12, 4), 227, train=9, test=6)
    return folder


def test_a_control_has_the_settings_of_its_data_set(tmp_path):
    """Its schedule and the strengths of its losses, which are of the pair (cards, squeezenet)."""
    cards, net = tables.DATASETS["cards"], tables.NETS["squeezenet"]
    folder = nets_data.build(tmp_path / "cards", "cards", cards.levels, cards.sizes, 160)
    facts = json.loads((folder / "manifest.json").read_text())
    facts["options"]["shuffled_parents"] = 1
    (folder / "manifest.json").write_text(json.dumps(facts))
    control = datasets.built_dataset(folder, net)
    assert (control.name, control.pair(net)) == ("cards_shuffled_1", cards.pair(net))
    assert cards.pair(net) in tables.SCHEDULES and cards.pair(net) in tables.STRENGTHS
    run, own = solver.run_of(control, net), tables.SCHEDULES[cards.pair(net)]
    assert (run.batch, run.base_lr) == (own.batch, own.base_lr)
    assert "loss_weight: 0.2\n" in "".join(files.file_texts(control, net, "nets").values())


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
        "cub_alexnet_sm_solver.prototxt",
        "cars_alexnet_deploy.prototxt",
        "old_net.prototxt",
    }
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def settings(dataset):
    """Names of the data set with each setting: whole images, and images cut to their boxes."""
    return [dataset, f"{dataset}_bbox"] if tables.DATASETS[dataset].boxes else [dataset]


def test_every_pair_has_net_deploy_and_a_solver_per_setting_and_variant():
    expected = {
        f"{dataset}_{net}_{kind}.prototxt"
        for dataset, net in tables.GRID
        for kind in ("train_val", "deploy")
    }
    expected |= {
        f"{setting}_{net}_{variant}_solver.prototxt"
        for dataset, net in tables.GRID
        for setting in settings(dataset)
        for variant in tables.COMMITTED
    }
    assert {path.name for path in COMMITTED} == expected


@pytest.mark.parametrize(
    "path", [p for p in COMMITTED if "solver" not in p.name], ids=lambda p: p.stem
)
def test_nets_parse(path):
    net = read(path, caffe_pb2.NetParameter())
    assert net.layer and not net.layers and not net.input  # nothing that Caffe has to upgrade
    assert not any(layer.type == "BatchNorm" for layer in net.layer)
    if path.stem.endswith("deploy"):
        assert net.layer[0].type == "Input"
        assert not any(layer.include or layer.exclude for layer in net.layer)


@pytest.mark.parametrize("name", ["_".join(pair) for pair in tables.GRID])
def test_solvers(name):
    dataset, net = name.split("_")
    images = tables.DATASETS[dataset].test
    parsed = read(ROOT / f"prototxt/{name}_train_val.prototxt", caffe_pb2.NetParameter())
    (batch,) = {
        layer.data_param.batch_size
        for layer in parsed.layer
        if layer.type == "Data" and layer.include[0].phase == caffe_pb2.TEST
    }
    most = tables.NETS[net].test_batch
    assert most / 2 <= batch <= most  # a batch of 2, or 1, wastes a GPU
    tests = -(-images // batch)
    for setting in settings(dataset):
        for variant in tables.COMMITTED:
            stages = tables.STAGES[variant]
            experiment = f"{setting}_{net}_{variant}"
            path = ROOT / f"prototxt/{experiment}_solver.prototxt"
            values = read(path, caffe_pb2.SolverParameter())
            assert values.net == f"prototxt/{name}_train_val.prototxt"
            assert list(values.test_iter) == [tests]
            assert values.max_iter % values.test_interval == 0  # the last weights are tested
            stages += ("bbox",) * setting.endswith("_bbox")
            assert [tuple(state.stage) for state in (values.train_state, *values.test_state)] == (
                [stages, stages] if stages else [()]
            )
            assert not values.HasField("solver_mode") and values.random_seed == 1
            assert values.snapshot_prefix == f"snapshots/{experiment}/model"
            assert path.read_text().count("\n") < 40


@pytest.mark.parametrize(
    "name, count, batch, covers",
    [
        ("cars_alexnet", 187, 43, "= 8041 test images, each once"),
        ("aircraft_vgg16", 101, 33, "= 3333 test images, each once"),
        ("cub_googlenet", 126, 46, "= 5796: 5794 test images, 2 of them twice"),
        ("cars_bcnn", 731, 11, "= 8041 test images, each once"),
    ],
)
def test_what_a_test_covers(name, count, batch, covers):
    text = (ROOT / f"prototxt/{name}_ours_solver.prototxt").read_text()
    assert re.search(rf"test_iter: {count} +# x {batch} per batch {covers}\n", text)


@pytest.mark.parametrize("setting", ["cars", "cars_bbox"])
def test_variants_differ_by_stages_and_snapshots_only(setting):
    def values(variant, setting=setting):
        path = ROOT / f"prototxt/{setting}_alexnet_{variant}_solver.prototxt"
        message = read(path, caffe_pb2.SolverParameter())
        for field in ("train_state", "test_state", "snapshot_prefix"):
            message.ClearField(field)
        return message

    assert all(values(variant) == values("sm", "cars") for variant in tables.COMMITTED)


def test_the_readme_names_what_is_there():
    """prototxt/README.md: every data set, network, variant and stage, and only files that exist."""
    text = (ROOT / "prototxt/README.md").read_text()
    for word in (
        *tables.NETS,
        *tables.DATASETS,
        *tables.STAGES,
        *tables.LOSSES,
        "csm",
        "skip",
        "flat",
        data.BBOX,
    ):
        assert f"`{word}`" in text, word
    for name in re.findall(r"\b[a-z]\w*\.(?:svg|prototxt)", text):
        assert (ROOT / "prototxt" / name).exists(), name
    assert f"{len(COMMITTED)} files" in text


def test_a_solver_says_what_its_variant_adds():
    text = (ROOT / "prototxt/cars_alexnet_ours_solver.prototxt").read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for stage in ("csm", "skip", "glm"):
        assert any(line.startswith(f"#   {stage}") for line in comments)
    assert "cars_alexnet_sm_solver" in text and "fc9_coarse" in text and "0.8" in text


@pytest.mark.parametrize(
    "images, batch, twice",
    [
        (8041, 43, 0),
        (5794, 46, 2),
        (1389, 48, 3),
        (7, 7, 0),
        (50, 50, 0),
        (97, 49, 1),
        (7919, 48, 1),
    ],
)
def test_batches_of_tests(images, batch, twice):
    """Also for a prime number of images, whose largest divisor is 1."""
    assert solver.test_batch(images, 50) == batch
    assert -images % batch == twice
    assert solver.test_batch(images, 1) == 1


@pytest.mark.parametrize("name", list(tables.DATASETS))
def test_tables_agree_with_the_label_trees(name):
    if not (TABLES / f"{name}.tsv").exists():
        pytest.skip(f"data_prep/hierarchies has no {name}.tsv")
    tree = Hierarchy.read(TABLES / f"{name}.tsv")
    assert tables.DATASETS[name].sizes == tree.sizes
    assert tables.DATASETS[name].levels == tree.levels


def test_counts_of_the_cards():
    """The table's counts are those of data_prep/build_lmdb.py cards, where that was run with all
    decks: some releases have fewer.
    """
    data = ROOT / "data/cards"
    if not (data / "manifest.json").exists():
        pytest.skip("data/cards is not built")
    splits = json.loads((data / "manifest.json").read_text())["splits"]
    used = sum(deck["split"] != "none" for deck in read_decks())
    rows = [line for split in splits for line in (data / f"{split}.tsv").read_text().splitlines()]
    here = len({line.split("\t")[1].partition("/")[0] for line in rows if "/" in line})
    if here < used:
        pytest.skip(f"data/cards has {here} of {used} decks")
    cards = tables.DATASETS["cards"]
    assert (cards.train, cards.test) == (splits["train"]["images"], splits["test"]["images"])


def test_another_data_set(built):
    result = make(
        built,
        "--data",
        "data/mine",
        "--net",
        "squeezenet",
        "--out",
        "nets",
        "--variant",
        "ours",
        "--name",
        "trial",
        "--train-batch",
        3,
        "--max-iter",
        7,
        "--base-lr",
        0.01,
        "--glm-json",
        '{"margins": [0.5, 2], "k": 3}',
    )
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (built / "nets").iterdir()} == {
        f"trial_squeezenet_{kind}.prototxt" for kind in ("train_val", "deploy", "ours_solver")
    }
    values = read(built / "nets/trial_squeezenet_ours_solver.prototxt", caffe_pb2.SolverParameter())
    assert (values.max_iter, list(values.test_iter)) == (7, [1])
    assert values.base_lr == pytest.approx(0.01)
    assert (built / values.snapshot_prefix).parent.is_dir()
    net = read(built / values.net, caffe_pb2.NetParameter())
    layers = {layer.name: layer for layer in net.layer}
    data = [layer.data_param for layer in net.layer if layer.type == "Data"]
    assert {param.source for param in data} == {
        f"data/mine/{split}_{kind}" for split in ("train", "test") for kind in ("images", "labels")
    }
    assert [param.batch_size for param in data] == [3, 3, 6, 6]
    assert layers["fc8_fine"].inner_product_param.num_output == 12
    assert layers["fc9_coarse"].inner_product_param.num_output == 4
    assert "fc10_coarse" not in layers
    assert json.loads(layers["glm"].python_param.param_str) == {
        "k": 3,
        "margins": [0.5, 2],
        "within_gradient": "paper",
        "normalize": True,
        "scale": 2.5,
    }


@pytest.mark.parametrize(
    "options",
    [
        ("--data", "data/mine", "--train-batch", "3", "--name", "trial-3"),
        ("--dataset", "cub", "--bbox", "--levels", "species, order", "--variant", "sm"),
        ("--data", "data/mine", "--glm-json", '{"margins": [0.5, 2]}', "--diagnostics"),
        ("--data", "data/mine", "--lambda", "0.4", "--center-weight", "0", "--metric-scale", "4"),
    ],
)
def test_the_header_has_the_command_that_made_the_file(built, options):
    """Typed again, it makes the same files."""
    assert make(built, *options, "--net", "squeezenet", "--out", "again").returncode == 0
    folder = built / "again"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    commands = {re.search("(?m)^# Made by (.*)$", text.decode())[1] for text in first.values()}
    (command,) = commands
    program, *arguments = shlex.split(command)
    assert (
        program == "tools/make_prototxt.py" and make(built, *arguments, fresh=True).returncode == 0
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    shutil.rmtree(folder)


def test_given_values_are_not_said_to_be_others(tmp_path):
    """A rate given by the user has no reason of ours beside it; stepsize, a divisor, is not 0."""
    result = make(
        tmp_path,
        "--dataset",
        "cub",
        "--net",
        "alexnet",
        "--out",
        "nets",
        "--variant",
        "sm",
        "--max-iter",
        1,
        "--base-lr",
        0.5,
    )
    assert result.returncode == 0, result.stderr
    path = tmp_path / "nets/cub_alexnet_sm_solver.prototxt"
    values = read(path, caffe_pb2.SolverParameter())
    assert (values.max_iter, values.stepsize, values.base_lr) == (1, 1, 0.5)
    (line,) = re.findall(r"base_lr: .*", path.read_text())
    assert "--base-lr" in line and "flickr" not in line


@pytest.mark.parametrize("tests, interval", [(0, 61), (1, 60), (7, 10), (20, 3)])
def test_tests_on_validation_images(tmp_path, tests, interval):
    """The data set's val split is read in place of test, and counted; snapshots stay."""
    nets_data.build(tmp_path / "data", "cards", ("card", "suit"), (8, 2), 150, 4, 3, val=5)
    options = ("--test-split", "val", "--tests", tests, "--seed", 7, "--max-iter", 60)
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", "nets", *options)
    assert result.returncode == 0, result.stderr
    path = tmp_path / "nets/cards_squeezenet_sm_solver.prototxt"
    values = read(path, caffe_pb2.SolverParameter())
    assert (values.test_interval, values.snapshot, values.random_seed) == (interval, 12, 7)
    assert list(values.test_iter) == [1] and "= 5 val images, each once" in path.read_text()
    net = read(tmp_path / values.net, caffe_pb2.NetParameter())
    sources = [layer.data_param.source for layer in net.layer if layer.type == "Data"]
    assert sources == [f"data/{s}_{k}" for s in ("train", "val") for k in ("images", "labels")]


@pytest.mark.parametrize("side, crop", [(150, 144), (256, 227)])
def test_cards_of_either_size(tmp_path, side, crop):
    """SqueezeNet reads small cards with a small crop, and large ones with its own."""
    nets_data.build(tmp_path / "data", "cards", ("card", "suit"), (8, 2), side, 1, 1)
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", 'my "nets"')
    assert result.returncode == 0, result.stderr
    values = read(
        tmp_path / 'my "nets"/cards_squeezenet_sm_solver.prototxt', caffe_pb2.SolverParameter()
    )
    net = read(tmp_path / values.net, caffe_pb2.NetParameter())
    images = [layer for layer in net.layer if layer.name == "data"]
    assert [layer.transform_param.crop_size for layer in images] == [crop, crop]


@pytest.mark.parametrize(
    "dataset, net, box, folder",
    [
        ("cars", "alexnet", "", "cars"),
        ("cars", "bcnn", "_bbox", "cars_bbox_512"),
        ("aircraft", "squeezenet", "_bbox", "aircraft_bbox"),
        ("cards", "vgg16", "", "cards_256"),
    ],
)
def test_any_pair_and_setting(tmp_path, dataset, net, box, folder):
    """Also those that are not committed; the solver names the setting's stage, the net has both."""
    result = make(
        tmp_path,
        "--dataset",
        dataset,
        "--net",
        net,
        "--out",
        "nets",
        "--variant",
        "csm",
        *(["--bbox"] if box else []),
    )
    assert result.returncode == 0, result.stderr
    path = tmp_path / f"nets/{dataset}{box}_{net}_csm_solver.prototxt"
    assert {file.name for file in path.parent.iterdir()} == {
        path.name,
        f"{dataset}_{net}_train_val.prototxt",
        f"{dataset}_{net}_deploy.prototxt",
    }
    values = read(path, caffe_pb2.SolverParameter())
    assert list(values.train_state.stage) == ["csm"] + ["bbox"] * bool(box)
    proto = read(tmp_path / values.net, caffe_pb2.NetParameter())
    for phase in ("train", "test"):
        kept = rules.select(proto, getattr(caffe, phase.upper()), values.train_state.stage).layer
        assert [layer.data_param.source for layer in kept if layer.type == "Data"] == [
            f"data/{folder}/{phase}_{kind}" for kind in ("images", "labels")
        ]
    # the command beside `caffe train` makes that folder
    command = next(line for line in path.read_text().splitlines() if "build_lmdb.py" in line)
    assert ("--bbox" in command) == bool(box)
    assert f"--out data/{folder}" in command or folder == f"{dataset}{box}"


def test_the_committed_folders_are_those_that_the_builder_names():
    """Without --out the builder writes data/<reader's name>, which has _bbox with --bbox."""
    for name in (name for name, known in tables.DATASETS.items() if known.boxes):
        settings = tables.DATASETS[name].settings(tables.NETS["alexnet"])
        for setting, box in zip(settings, (False, True)):
            built = readers.READERS[name].name(argparse.Namespace(bbox=box))
            assert setting.folder == f"data/{built}"
    for dataset in tables.DATASETS.values():
        assert dataset.side == readers.READERS[dataset.name].SIZE


def test_a_folder_cut_to_boxes(tmp_path):
    """Built with --bbox, the folder is one setting: no stage, and its name is in the files'."""
    nets_data.build(tmp_path / "data", "cub_bbox", ("species", "family"), (8, 2), 227, 1, 1)
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", "nets")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "nets/cub_bbox_squeezenet_train_val.prototxt").read_text()
    assert 'stage: "bbox"' not in text and 'source: "data/train_images"' in text


@pytest.mark.parametrize(
    "levels, labels, sizes",
    [
        ("1", [1], [12]),
        ("2", [1, 2], [12, 6]),
        ("plant,tribe", [1, 3], [12, 3]),
        ("tribe, plant", [1, 3], [12, 3]),
        ("4", [1, 2, 3, 4], [12, 6, 3, 2]),
    ],
)
def test_levels(tmp_path, levels, labels, sizes):
    nets_data.build(
        tmp_path / "data", "mine", ("plant", "genus", "tribe", "order"), (12, 6, 3, 2), 227, 1, 1
    )
    result = make(
        tmp_path, "--data", "data", "--net", "squeezenet", "--out", "nets", "--levels", levels
    )
    assert result.returncode == 0, result.stderr
    net = read(tmp_path / "nets/mine_squeezenet_train_val.prototxt", caffe_pb2.NetParameter())
    layers = {layer.name: layer for layer in net.layer}
    heads = [layers.get(head) for head in ("fc8_fine", "fc9_coarse", "fc10_coarse", "fc11_coarse")]
    assert [head.inner_product_param.num_output for head in heads if head] == sizes
    assert list(layers["labels"].top) == ["label_1", "label_2", "label_3", "label_4"]
    assert list(layers["glm"].bottom)[1:] == [f"label_{label}" for label in labels]
    shown = [layer for layer in net.layer if layer.type == "SoftmaxWithLoss"]
    losses = [layer.bottom[1] for layer in shown if layer.loss_weight[0]]
    assert losses == [f"label_{label}" for label in labels]
    others = layers["other_labels"].bottom if "other_labels" in layers else ()
    assert {*others, *(f"label_{label}" for label in labels)} == set(layers["labels"].top)


def test_diagnostics(built):
    """Second tops without weight, which Caffe prints; none without the option."""
    for options, tops in (((), 1), (("--diagnostics",), 2)):
        result = make(built, *ONE[:4], "--out", f"tops{tops}", *options, *EVERY)
        assert result.returncode == 0, result.stderr
        net = read(
            built / f"tops{tops}/mine_squeezenet_train_val.prototxt", caffe_pb2.NetParameter()
        )
        losses = {
            layer.name: layer for layer in net.layer if layer.type == "Python" and layer.loss_weight
        }
        assert set(losses) == set(tables.LOSSES)
        for name, layer in losses.items():
            count = tops if tables.FEATURE in tables.LOSSES[name].reads else 1
            assert list(layer.top) == [f"{name}_loss", f"{name}_diagnostics"][:count]
            assert list(layer.loss_weight)[1:] == [0] * (count - 1) and layer.loss_weight[0] > 0


@pytest.mark.parametrize("what", ["scores", "probabilities"])
def test_what_coarse_classifiers_read(tmp_path, what):
    """In every variant, in the comments, and in Caffe: rows that sum to 1, or scores."""
    arguments = ("--dataset", "cub", "--net", "squeezenet", "--out", "nets", "--skip-input", what)
    result = make(tmp_path, *arguments, *EVERY)
    assert result.returncode == 0, result.stderr
    path = tmp_path / "nets/cub_squeezenet_train_val.prototxt"
    outputs = {
        "scores": ["fc8_fine", "fc9_coarse"],
        "probabilities": ["softmax_fine", "softmax_fc9_coarse"],
    }
    whole = read(path, caffe_pb2.NetParameter())
    softmaxes = outputs["probabilities"] if what == "probabilities" else []
    for stages in tables.STAGES.values():
        for phase in (caffe.TRAIN, caffe.TEST):
            chosen = rules.select(whole, phase, stages)
            layers = {layer.name: layer for layer in chosen.layer}
            found = [layer.name for layer in chosen.layer if layer.type == "Softmax"]
            reads_scores = "csm" in stages and not {"flat", "fgon"}.intersection(stages)
            assert found == (softmaxes if reads_scores else [])
            for level, name in ((2, "fc9_coarse"), (3, "fc10_coarse")) if reads_scores else ():
                expected = [outputs[what][level - 2]]
                bottoms = list(layers[name].bottom)
                if "skip" in stages:
                    expected = ["feature_vector", *outputs[what][: level - 1]]
                    bottoms = list(layers[bottoms[0]].bottom)
                assert bottoms == expected
                assert list(layers[f"loss_{name}"].bottom)[0] == name
    assert f"coarse classifiers on the {what} of the finer ones" in path.read_text()
    text = (tmp_path / "nets/cub_squeezenet_ours_solver.prototxt").read_text()
    assert f"each reads the {what}" in text and f"all finer {what}:" in text

    net = caffe.Net(str(tmp_path / "nets/cub_squeezenet_deploy.prototxt"), caffe.TEST)
    rng = np.random.default_rng(0)
    for name, blobs in net.params.items():
        if name.endswith(("_fine", "_coarse")):
            blobs[0].data[...] = rng.normal(size=blobs[0].shape)
    net.forward()
    fine, coarse = tables.DATASETS["cub"].sizes[:2]
    joined = net.blobs["fc10_input"].data[0, -(fine + coarse) :]
    sums = [joined[:fine].sum(), joined[fine:].sum()]
    assert (sums == pytest.approx([1, 1], rel=1e-5)) == (what == "probabilities")
    assert np.array_equal(joined[:fine], net.blobs[outputs[what][0]].data[0])


def weight_option(name):
    return "--lambda" if name == "glm" else f"--{name.replace('_', '-')}-weight"


WEIGHTS = {name: 0.25 * number for number, name in enumerate(tables.LOSSES)}


@pytest.fixture(scope="module")
def weighted(built):
    """{loss: (layer, comment above it)}, and the solvers' texts: all weights are given."""
    options = [part for name, weight in WEIGHTS.items() for part in (weight_option(name), weight)]
    result = make(built, *ONE[:4], "--out", "weighted", *options, "--metric-scale", 4, *EVERY)
    assert result.returncode == 0, result.stderr
    text = (built / "weighted/mine_squeezenet_train_val.prototxt").read_text()
    layers = {
        layer.name: layer for layer in text_format.Parse(text, caffe_pb2.NetParameter()).layer
    }
    found = {}
    for name in WEIGHTS:
        above = text[: text.index(f'  name: "{name}"')].removesuffix("layer {\n")
        found[name] = layers[name], above.rpartition("}\n")[2]
    return found, {
        variant: (built / f"weighted/mine_squeezenet_{variant}_solver.prototxt").read_text()
        for variant in tables.STAGES
    }


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_and_scale_of_the_metric_losses(weighted, name):
    """In the net, in the comment above the layer, and in every solver with the loss."""
    losses, solvers = weighted
    layer, comment = losses[name]
    assert layer.loss_weight[0] == pytest.approx(WEIGHTS[name])
    assert f"loss_weight: {weight_option(name)}." in comment and "Weight:" not in comment
    given = json.loads(layer.python_param.param_str)
    scaled = tables.FEATURE in tables.LOSSES[name].reads and name != "center"
    assert given.get("scale") == (4 if scaled else None)
    assert ("features of length 4 inside" in comment) == scaled
    for variant, stages in tables.STAGES.items():
        says = f" {WEIGHTS[name]:g} x the {tables.LOSSES[name].called} on "
        says += tables.LOSSES[name].on("pool9")
        assert (says in solvers[variant]) == (name in stages)


@pytest.mark.parametrize(
    "options, parameters, comment",
    [
        ((), {"scale": 2.5}, "features of length 2.5 inside the loss"),
        (("--glm-json", '{"scale": 3}'), {"scale": 3}, "features of length 3 inside the loss"),
        (
            ("--glm-json", '{"scale": 3}', "--metric-scale", "4"),
            {"scale": 3},
            "features of length 3 inside the loss",
        ),
        (("--glm-json", '{"normalize": false}'), {"normalize": False}, "the features as they are"),
    ],
)
def test_the_comment_on_the_length_of_the_features(built, options, parameters, comment):
    result = make(built, *ONE[:4], "--out", "length", "--variant", "ours", *options)
    assert result.returncode == 0, result.stderr
    text = (built / "length/mine_squeezenet_train_val.prototxt").read_text()
    layers = {
        layer.name: layer for layer in text_format.Parse(text, caffe_pb2.NetParameter()).layer
    }
    expected = {"k": 1, "margins": [1, 1], "within_gradient": "paper", "normalize": True}
    assert json.loads(layers["glm"].python_param.param_str) == {**expected, **parameters}
    assert f"# normalize: {comment}" in text


def preset(built, *options):
    """(parameters of GLM, its weight, type of what fc9_coarse reads) with these options."""
    result = make(built, *ONE[:4], "--out", "preset", "--variant", "csm_glm", *options)
    assert result.returncode == 0, result.stderr
    text = (built / "preset/mine_squeezenet_train_val.prototxt").read_text()
    net = rules.select(text_format.Parse(text, caffe_pb2.NetParameter()), caffe.TRAIN, CSM_GLM)
    layers = {layer.name: layer for layer in net.layer}
    kind = next(one.type for one in net.layer if layers["fc9_coarse"].bottom[0] in one.top)
    glm = layers["glm"]
    return json.loads(glm.python_param.param_str), glm.loss_weight[0], kind


CSM_GLM = tables.STAGES["csm_glm"]
TO_THE_LETTER = {"k": 1, "margins": [1, 1], "within_gradient": "paper", "normalize": False}


@pytest.mark.parametrize(
    "options, glm, kind",
    [
        (("--preset", "paper"), TO_THE_LETTER, "Softmax"),
        (("--preset", "paper", "--skip-input", "scores"), TO_THE_LETTER, "InnerProduct"),
        (("--preset", "paper", "--glm-json", '{"k": 3}'), {**TO_THE_LETTER, "k": 3}, "Softmax"),
        (
            ("--preset", "paper", "--glm-json", '{"normalize": true, "scale": 2}'),
            {**TO_THE_LETTER, "normalize": True, "scale": 2},
            "Softmax",
        ),
    ],
)
def test_the_papers_preset(built, options, glm, kind):
    """Raw features, margins of 1, lambda 0.8, Eq. (20) as printed, probabilities."""
    parameters, weight, read = preset(built, *options)
    assert (parameters, read) == (glm, kind) and weight == pytest.approx(0.8)


def test_the_recommended_preset_is_the_default(built):
    assert (
        preset(built)
        == preset(built, "--preset", "recommended")
        != preset(built, "--preset", "paper")
    )


ONE = ("--data", "data/mine", "--net", "squeezenet", "--out", "refused")


@pytest.mark.parametrize(
    "options, status, says",
    [
        (("--data", "data/none", *ONE[2:]), 1, "no manifest.json"),
        ((*ONE, "--preset", "paper", "--metric-scale", "2"), 1, "normalize"),
        (ONE + ("--glm-json", '{"margin": [1, 1]}'), 1, "margins"),
        (ONE + ("--glm-json", '{"margins": [1]}'), 1, "one margin per level"),
        (ONE + ("--glm-json", '{"average": "all"}'), 1, "fine_classes"),
        (ONE + ("--glm-json", "nonsense"), 1, "not valid JSON"),
        (ONE + ("--glm-json", "[1]"), 1, "must be a JSON object"),
        (ONE + ("--glm-json", '{"normalize": false}', "--metric-scale", "4"), 1, "normalized"),
        (ONE + ("--lambda", "-1"), 2, "--lambda: 0 to 1"),
        (ONE + ("--lambda", "nan"), 2, "--lambda: 0 to 1"),
        (ONE + ("--triplet-weight", "much"), 2, "--triplet-weight: invalid number"),
        (ONE + ("--metric-scale", "0"), 2, "--metric-scale: 0.001 to 1000"),
        (("--lambda", "0"), 2, "--lambda needs --dataset or --data"),
        (("--metric-scale", "1"), 2, "--metric-scale needs --dataset or --data"),
        (ONE + ("--name", "../escape"), 1, "file name"),
        (ONE + ("--max-iter", "0"), 2, "--max-iter"),
        (ONE + ("--max-iter", str(2**31)), 2, "--max-iter"),
        ((), 1, "repository's root"),
        (ONE[:4] + ("--out", "data/mine/manifest.json"), 1, "is not a folder"),
        (ONE + ("--check",), 2, "--check"),
        (("--net", "squeezenet"), 2, "--dataset"),
        (("--dataset", "cub"), 2, "--net"),
        (("--dataset", "cub", "--data", "data/mine"), 2, "not allowed"),
        (ONE + ("--levels", "0"), 1, "has 2 levels"),
        (ONE + ("--levels", "3"), 1, "has 2 levels"),
        (ONE + ("--levels", "genus"), 1, "finest level, plant"),
        (ONE + ("--levels", "plant,suit"), 1, "no level 'suit', only plant, genus"),
        (ONE + ("--levels", ","), 1, "no level ''"),
        (ONE + ("--levels", ""), 1, "no level ''"),
        (ONE + ("--name", ""), 1, "file name"),
        (ONE[:4] + ("--out", "refused\udcff"), 1, "an argument is not UTF-8"),
        (ONE + ("--bbox",), 2, "--bbox needs a --dataset"),
        (ONE + ("--test-split", "val"), 1, "data/mine has no val split"),
        (("--dataset", "cards", *ONE[2:], "--test-split", "val"), 2, "val needs --data"),
        (ONE + ("--seed", "-1"), 2, "--seed: 0 to 2147483647"),
        (ONE + ("--tests", "-1"), 2, "--tests: 0 to 1000"),
        (("--dataset", "cards", *ONE[2:], "--bbox"), 2, "cars, aircraft, cub"),
        (("--levels", "2"), 2, "--dataset or --data"),
        (("--bbox",), 2, "--dataset or --data"),
    ],
)
def test_refusals(built, options, status, says):
    result = make(built, *options)
    assert result.returncode == status
    assert says in result.stderr and "Traceback" not in result.stderr
    assert not (built / "refused").exists()
    assert not (built / "prototxt").exists()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda text: "{", "is not valid JSON"),
        (lambda text: "[" * 10**4, "nested too deeply"),
        (lambda text: "9" * 5000, "is not valid JSON"),
        (lambda text: "[]", "is damaged: the value is not an object"),
        (lambda text: '{"name": "x"}', "is damaged: format is missing"),
        (lambda text: text.replace('"images": 1', '"images": 0'), "images is not a number above 0"),
        (lambda text: text.replace('"size": 8', '"size": "8"'), "size is not a whole number"),
        (lambda text: text, "larger --size"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, change, says):
    folder = nets_data.build(tmp_path / "data", "x", ("a",), (3,), 8, train=1, test=1)
    manifest = folder / "manifest.json"
    manifest.write_text(change(manifest.read_text()))
    result = make(tmp_path, "--data", "data", "--net", "squeezenet", "--out", "refused")
    assert result.returncode == 1 and says in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "name, value",
    [
        ("gtl", {"mining": "hard"}),
        ("bgl", {"levels": ["plant", "genus"]}),
        ("soft_label", {"beta": 4}),
    ],
)
def test_parameters_of_a_loss(built, name, value):
    """--NAME-json reaches the layer; what the layer does not know is refused in one sentence."""
    variant = tables.alone(tables.LOSSES[name])[0]
    option = f"--{name.replace('_', '-')}-json"
    ours = (*ONE[:4], "--out", f"json_{name}", "--variant", variant, option)
    result = make(built, *ours, json.dumps(value))
    assert result.returncode == 0, result.stderr
    net = read(built / f"json_{name}/mine_squeezenet_train_val.prototxt", caffe_pb2.NetParameter())
    given = [json.loads(one.python_param.param_str) for one in net.layer if one.name == name]
    assert given and all(value.items() <= one.items() for one in given)
    result = make(built, *ours, '{"no": 1}')
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert f'error: {option}: param_str has an unknown parameter "no"' in result.stderr
