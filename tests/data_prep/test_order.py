"""--order hierarchical: batches of P classes x K images, and the report on them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import archive
import numpy as np
import pytest
import real_data
from archive import refused, run

from data_prep import batches, constraints, order
from data_prep.build_options import BuildOptions
from data_prep.common import typed
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.lmdb_io import items, parse_datum
from data_prep.records import read_listing
from python_layers import glm

AIRCRAFT = real_data.FOLDER / "fgvc_aircraft/data/images_variant_trainval.txt"
CARS = real_data.FOLDER / "stanford_cars/devkit/cars_train_annos.mat"


def tree(*group_sizes):
    """Label rows: group_sizes[0] lists the classes of each parent, [1] the parents of each ..."""
    rows = [np.arange(sum(group_sizes[0]))] if group_sizes else []
    for sizes in group_sizes:
        rows.append(np.repeat(np.arange(len(sizes)), sizes)[rows[-1]])
    return np.stack(rows, axis=1)


ONE_LEVEL = np.arange(20)[:, None]
TREES = {  # name: (classes x h, images per class)
    "one level": (ONE_LEVEL, [9] * 20),
    "two levels": (tree([1, 2, 3, 5, 9]), range(8, 28)),
    "three levels": (tree([1, 2, 3, 5, 1, 1, 4, 3], [2, 1, 4, 1]), [8, 9, 12, 7, 10] * 4),
    "five levels": (tree([2] * 12 + [1] * 4, [2] * 8, [4, 4], [2]), [8] * 28),
    "as many images as a batch takes": (tree([3] * 10), [4] * 30),
}
PLANS = [
    batches.Plan(groups=2, classes=8, images=4, epochs=1),
    batches.Plan(groups=2, classes=6, images=3, epochs=3),
    batches.Plan(groups=4, classes=8, images=4, epochs=5),
    batches.Plan(groups=2, classes=8, images=2, epochs=2),
]


def hierarchical(rows, counts, plan, seed=0):
    """(order, fine label of each image)"""
    labels = np.repeat(np.arange(len(rows)), counts)
    names = [f"class {c}" for c in range(len(rows))]
    return batches.hierarchical(labels, rows, names, plan, seed), labels


def alone(rows, classes):
    """Classes of a batch without a sibling there, or a cousin of the lowest level that has any."""
    for c in classes:
        for level in range(1, rows.shape[1]):
            kin = np.flatnonzero(rows[:, level] == rows[c, level])
            if len(kin) > 1:
                if not set(kin.tolist()) - {c} & set(classes):
                    yield c
                break


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("name", TREES)
def test_batches(name, plan):
    rows, counts = TREES[name]
    if rows.shape[1] == 1:
        plan = batches.Plan(1, plan.classes, plan.images, plan.epochs)
    found, labels = hierarchical(rows, list(counts), plan)
    lonely = seen = 0
    for batch in found.reshape(-1, plan.batch):
        assert len(set(batch.tolist())) == plan.batch
        classes, images = np.unique(labels[batch], return_counts=True)
        assert len(classes) == plan.classes and set(images) == {plan.images}
        if rows.shape[1] > 1:
            assert len(set(rows[classes, 1])) > 1
        lonely, seen = lonely + len([*alone(rows, classes.tolist())]), seen + len(classes)
    uses = np.bincount(found, minlength=len(labels))
    assert {plan.epochs} <= set(uses) <= {plan.epochs, plan.epochs + 1}
    assert lonely <= 0.02 * seen  # near the end equal use comes first


def test_other_draws_in_each_pass_and_with_each_seed():
    plan = batches.Plan(groups=2, classes=8, images=4, epochs=4)
    rows, counts = TREES["three levels"]
    found, labels = hierarchical(rows, list(counts), plan)
    assert np.array_equal(found, hierarchical(rows, list(counts), plan)[0])
    other = hierarchical(rows, list(counts), plan, seed=1)[0]
    assert len(found) != len(other) or (found != other).any()
    runs = [frozenset(batch.tolist()) for batch in found.reshape(-1, plan.batch)]
    assert len(set(runs)) == len(runs)
    chosen = {frozenset(labels[batch].tolist()) for batch in found.reshape(-1, plan.batch)}
    assert len(chosen) > len(runs) / 2


def test_the_same_on_every_machine():
    rows, counts = TREES["three levels"]
    found, _ = hierarchical(rows, list(counts), PLANS[2])
    digest = hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "e360f0dae76f82f9"


def test_a_class_with_more_images_than_its_siblings():
    """Equal use comes first; the sibling is spread over the order, not used up at its beginning."""
    plan = batches.Plan(groups=2, classes=4, images=4, epochs=5)
    counts = [100, 20] + [50] * 8
    found, labels = hierarchical(tree([2] * 5), counts, plan)
    assert set(np.bincount(found)) <= {5, 6}
    times = np.flatnonzero((labels[found] == 1).reshape(-1, plan.batch).any(axis=1))
    halves = np.histogram(times, 2, (0, len(found) // plan.batch))[0]
    assert len(times) >= 25 and halves.min() > 0.3 * halves.sum()


@pytest.mark.parametrize(
    "options, counts, says",
    [
        (dict(groups=3), [9] * 20, "--classes 8 must be a multiple of --groups 3"),
        (dict(groups=8), [9] * 20, "--classes 8 must be a multiple of --groups 8, 2 x or more"),
        (dict(groups=1), [9] * 20, "needs --groups 2 or more"),
        (dict(groups=10, classes=20), [9] * 20, "have 8 groups: --groups can be at most 8"),
        (dict(groups=2, classes=22), [9] * 20, "have 20 classes: choose fewer --classes"),
        (dict(), [9] * 19 + [3], "class 19 has 3 training images, and a batch holds 4 different"),
        (dict(), [9] * 19 + [1], "class 19 has 1 training image"),
        (dict(), [400] + [9] * 19, "class 0 has 400 of 571 images but appears once per batch"),
    ],
)
def test_impossible(options, counts, says):
    plan = batches.Plan(**{**dict(groups=2, classes=8, images=4, epochs=1), **options})
    with pytest.raises(UserError) as error:
        hierarchical(TREES["three levels"][0], counts, plan)
    assert says in str(error.value) and "--order hierarchical: " in str(error.value)


def test_classes_without_training_images():
    counts = [8, 0, 8, 8, 0, 8, 8, 8, 8, 8, 8, 0, 8, 8, 8, 8, 8, 8, 8, 8]
    found, labels = hierarchical(TREES["three levels"][0], counts, PLANS[0])
    assert set(labels[found]) == set(np.flatnonzero(counts))


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("size", [1, 5, 40])
def test_defined_terms_are_those_of_the_loss(name, size):
    rows, counts = TREES[name]
    rng = np.random.default_rng(size)
    labels = rows[rng.choice(np.repeat(np.arange(len(rows)), list(counts)), size)]
    classes, terms = constraints.defined(labels)
    h = rows.shape[1]
    loss = glm.forward(rng.normal(size=(size, 3)), list(labels.T), [1.0] * h)
    skipped = dict(zip(glm.diagnostic_names(h), loss.diagnostics()))
    assert [skipped[f"skipped_{j}"] for j in range(1, h + 1)] == pytest.approx(
        1 - terms[:, 1:].mean(axis=0)
    )
    several = [np.sum(labels[:, 0] == c) > 1 for c in classes]
    assert terms[:, 0].tolist() == several


def official(name):
    """The table's Hierarchy and the fine label of each official training image."""
    hierarchy = Hierarchy.read(TABLES / f"{name}.tsv")
    if name == "cub":  # 5994: 30 of each species, 29 of six
        return hierarchy, np.repeat(np.arange(200), [30] * 194 + [29] * 6)
    if name == "cars":
        if not CARS.exists():
            pytest.skip(f"no {CARS}")
        from scipy.io import loadmat

        return hierarchy, loadmat(CARS, squeeze_me=True)["annotations"]["class"].astype(int) - 1
    if not AIRCRAFT.exists():
        pytest.skip(f"no {AIRCRAFT}")
    number = {variant: i for i, variant in enumerate(hierarchy.names[0])}
    variants = [line.split(" ", 1)[1] for line in AIRCRAFT.read_text().splitlines()]
    return hierarchy, np.array([number[variant] for variant in variants])


@pytest.mark.parametrize("name", ["cars", "aircraft", "cub"])
def test_the_papers_trees(name):
    """The loss has nearly all that the tree allows, at 128 = 32 x 4; shuffled, a third of it."""
    hierarchy, labels = official(name)
    plan = batches.Plan(groups=8, classes=32, images=4, epochs=2)
    options = BuildOptions(
        size=16, resize="squeeze", encoded="jpg", order="hierarchical", batches=plan
    )
    found = batches.hierarchical(labels, hierarchy.labels, hierarchy.names[0], plan, 0)
    said = order.facts(labels[found], options, hierarchy)
    assert said["batch"] == 128
    assert said["shares"]["all"] >= 0.999 * said["shares"]["tree"]
    mixed = np.random.default_rng(0).permutation(labels)
    shuffled = replace(options, order="shuffled", batches=None)
    shares = order.facts(mixed, shuffled, hierarchy)["shares"]
    assert shares["all"] < 0.5 * shares["tree"]


PLAN = ("--order", "hierarchical", "--groups", 2, "--classes", 4, "--images", 2)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return archive.make(tmp_path_factory.mktemp("birds"))


def build(birds, out, *options):
    base = ("build_lmdb.py", "cub", "--root", birds, "--partial", "--size", 32, "--out", out)
    return run(*base, *options)


@pytest.fixture(scope="module")
def built(birds, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "cub"
    done = build(birds, out, *PLAN, "--epochs", 4, "--seed", 5)
    assert done.returncode == 0, done.stderr
    assert "(of 12 images)" in done.stdout and "--train-batch 8" in done.stdout
    assert "batches of 8: D_W, M1, M2 and M3 are all defined" in done.stdout
    return out


def test_a_built_data_set(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["options"]["batches"] == {
        "groups": 2,
        "classes": 4,
        "images": 2,
        "epochs": 4,
    }
    tree = Hierarchy.read(built / "hierarchy.tsv")
    train = read_listing(built / "train.tsv", tree)
    assert manifest["splits"]["train"]["images"] == len(train) and len(train) % 8 == 0
    labels = np.array([label for _, label in train])
    options = typed.from_json(BuildOptions, manifest["options"], "options")
    assert typed.to_json(options) == manifest["options"]
    said = order.facts(labels, options, tree)
    assert manifest["splits"]["train"]["order"] == said
    uses = {name: [n for n, _ in train].count(name) for name, _ in train}
    assert len(uses) == 12 and set(uses.values()) <= {4, 5}
    stored = [parse_datum(value).label for _, value in items(built / "train_images")]
    assert stored == labels.tolist()
    assert len(read_listing(built / "test.tsv", tree)) == 12
    assert run("verify_lmdb.py", built).returncode == 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_caffe_deals_the_batches(built, ranks):
    """Caffe's own Data layers: the batches of all ranks together, which the metric losses gather,
    are those of the order.
    """
    script = f"""
import caffe, numpy as np
text = '''layer {{ name: "l" type: "Data" top: "l" top: "fine" include {{ phase: TRAIN }}
    data_param {{ source: "{built}/train_labels" batch_size: {8 // ranks} backend: LMDB }} }}'''
open("net.prototxt", "w").write(text)
caffe.set_solver_count({ranks})
caffe.set_multiprocess(True)
fine = []  # of each rank, 20 batches: beyond the end of the data set, where it starts again
for rank in range({ranks}):
    caffe.set_solver_rank(rank)
    net = caffe.Net("net.prototxt", caffe.TRAIN)
    fine.append([net.forward() and net.blobs["fine"].data.ravel().copy() for _ in range(20)])
for parts in zip(*fine):
    classes, images = np.unique(np.concatenate(parts), return_counts=True)
    assert len(classes) == 4 and set(images) == {{2}}, (classes, images)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=built.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_dry_run_and_report(birds, built, tmp_path):
    done = build(birds, tmp_path / "cub", *PLAN, "--dry-run")
    assert done.returncode == 0 and "dry run of cub" in done.stdout, done.stderr
    assert not any(tmp_path.iterdir())
    options = (*PLAN, "--epochs", 4, "--seed", 5)
    done = build(birds, built, *options, "--report-batch", 6)
    assert "nothing to do" in done.stdout and "batches of 6" in done.stdout
    done = build(birds, tmp_path / "cub", "--dry-run")
    assert "batches of 128: D_W" in done.stdout


def test_refused_by_the_command(birds, tmp_path):
    done = build(birds, tmp_path / "cub", *PLAN[:-1], 3)
    refused(done, "has 2 training images, and a batch holds 3 different ones")
    assert not (tmp_path / "cub").exists()
    done = build(birds, tmp_path / "cub", "--epochs", 2)
    assert done.returncode == 2 and "--epochs needs --order hierarchical" in done.stderr
