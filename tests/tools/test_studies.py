"""The library of tools/study.py: study files, statistics, convergence, tables."""

import dataclasses
import os
import re
import subprocess
import sys

import nets_data
import numpy as np
import pytest
from commands import ROOT
from scipy import stats

from data_prep.common.errors import UserError
from tools import scores
from tools.nets import tables
from tools.studies import (
    cells,
    code_version,
    convergence,
    curves,
    effects,
    generated,
    plan,
    plot,
    progress,
    published,
    records,
    settings,
    significance,
    table,
    table_text,
)

TEXT = """
title = "of a test"
variants = ["sm", "ours"]
seeds = [1, 2]
[data.mine]
folder = "data/mine"
[nets.squeezenet]
weights = ""
[options]
max-iter = 30
[grid]
lambda = [0.4, 0.8]
"""
SELECTING = TEXT.replace("seeds", 'select = "val"\nvalidation = 10\nseeds') + (
    "[sweep]\nbase-lr = [0.1, 0.2, 0.3]\n"
)


def read(folder, text, name="mine"):
    path = folder / f"{name}.toml"
    path.write_text(text)
    return plan.read(path, folder)


# --- Study files


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("title", "titel", "unknown key 'titel': did you mean 'title'?"),
        ('["sm", "ours"]', '["sm", "our"]', "variants has no 'our': did you mean 'ours'?"),
        ("nets.squeezenet", "nets.squeeze", "nets has no 'squeeze'"),
        ('folder = "data/mine"', "", "[data.mine] needs a folder"),
        ("max-iter", "max-it", "'max-it' is not an option that a study can set"),
        ("max-iter = 30", "max-iter = 0", "argument --max-iter: invalid number above 0 value"),
        ("max-iter = 30", "seed = 3", "'seed' is not an option that a study can set"),
        (
            "max-iter = 30",
            "lambda = 1.0",
            "lambda is in two of [options], [grid], [vary] and [sweep]",
        ),
        ("lambda = [0.4, 0.8]", "lambda = 0.4", "lambda is not a list of values to try"),
        ("lambda = [0.4, 0.8]", "lambda = [1.0, 1.0]", "lambda has a value twice"),
        ("[grid]", "[sweep]", '[sweep] needs select = "val"'),
        ("seeds = [1, 2]", 'seeds = [1]\nselect = "test"', 'select is not "val"'),
        ("seeds = [1, 2]", 'seeds = [1]\nselect = "val"\nvalidation = 9', "needs a learning rate"),
        ("seeds = [1, 2]", 'seeds = [1]\nsplit = "val"', "validation images are needed"),
        ("[grid]", '[grid]\n"recall@2" = [1]', "'recall@2' is not an option"),
        (
            "seeds =",
            'measures = ["recall@2"]\nseeds =',
            "has no 'recall@2': did you mean 'recall@1'",
        ),
        ("seeds =", 'measures = ["ece", "ece"]\nseeds =', "measures has a value twice"),
        ("seeds = [1, 2]", 'seeds = ["a"]', "seeds[0] is not a whole number"),
        ("[grid]", '[[exclude]]\nnet = "vgg16"\n[grid]', "[[exclude]]: net has no 'vgg16'"),
        ("[grid]", '[[override]]\nnet = "squeezenet"\n[grid]', "neither options nor sweep"),
        ("[grid]", '[[exclude]]\nnet = "squeezenet"\n[grid]', "leaves no training"),
        ("[grid]", '[[exclude]]\nvariant = "sm"\nlambda = 0.4\n[grid]', "no training matches"),
        ("[grid]", "grid]", "is not TOML"),
    ],
)
def test_a_wrong_study_is_refused_in_a_sentence(tmp_path, old, new, says):
    assert old in TEXT
    with pytest.raises(UserError) as error:
        cells.rows(read(tmp_path, TEXT.replace(old, new, 1)))
    assert says in str(error.value) and "mine.toml" in str(error.value)


def test_ready_studies_are_read():
    found = sorted((ROOT / "tools/studies").glob("*.toml"))
    assert len(found) >= 8
    for path in found:
        state = progress.State(plan.read(path, path.parent))
        assert state.count() == len(state.wanted()) + len(state.later()) > 1


def test_the_example_of_the_readme(tmp_path):
    text = (ROOT / "tools/studies/README.md").read_text()
    study = read(tmp_path, text.split("```toml\n")[1].split("```")[0])
    rows = [(row.data.name, row.variant, dict(row.shown)) for row in cells.rows(study)]
    both = [
        {"lambda": x, "glm.k": k, **more}
        for x, k in ((0.4, 1), (0.4, 3), (0.8, 1))
        for more in ({}, {"glm.within_gradient": "exact"})
    ]
    assert rows == [
        (data, variant, shown)
        for data in ("cub", "mine")
        for variant, all_shown in (("sm", [{}]), ("ours", both))
        for shown in all_shown
    ]


def test_an_option_that_does_not_act_on_a_variant_gives_no_further_rows(tmp_path):
    rows = cells.rows(read(tmp_path, SELECTING))
    assert [(row.variant, row.shown) for row in rows] == [
        ("sm", ()),
        ("ours", (("lambda", 0.4),)),
        ("ours", (("lambda", 0.8),)),
    ]
    assert all(len(row.candidates) == 3 for row in rows)


def test_folders_and_commands_come_from_the_tables(tmp_path):
    text = SELECTING.replace('[data.mine]\nfolder = "data/mine"', "[data.cub]\n[data.cub_bbox]")
    text = text.replace("[nets.squeezenet]", "[nets.bcnn]")
    whole, boxes = read(tmp_path, text).data
    assert whole.whole["bcnn"].folder == "data/cub_512"
    assert boxes.validation["bcnn"] == plan.Place(
        "data/cub_bbox_512_val",
        "data_prep/build_lmdb.py cub --root /data/CUB_200_2011 --bbox --size 512 --validation 10 "
        "--out data/cub_bbox_512_val",
    )


def test_parameters_of_the_large_margin_loss():
    options = {"max-iter": 3, "diagnostics": True, "glm.k": 3, "glm.margins": [1, 0.5]}
    assert settings.words(options) == [
        *("--max-iter", "3", "--diagnostics"),
        *("--glm-json", '{"k": 3, "margins": [1, 0.5]}'),
    ]
    assert settings.flat({"glm": {"k": 3}, "lambda": 1}) == {"glm.k": 3, "lambda": 1}
    assert settings.applies("glm.k", "ours") and not settings.applies("glm.k", "sm_center")
    assert settings.applies("metric-scale", "sm_triplet")
    assert not settings.applies("metric-scale", "sm_center")


def test_identity_changes_with_what_decides_the_result(tmp_path):
    def keys(text, digests):
        study = read(tmp_path, text)
        (row, *_) = cells.rows(study)
        return {cells.key(cell, digests) for cell in cells.finals_of(study, row, row.candidates[0])}

    same = dict(data="a", weights="b")
    first = keys(TEXT, same)
    assert len(first) == 2 and first == keys(TEXT.replace("of a test", "renamed"), same)
    assert first.isdisjoint(keys(TEXT.replace("= 30", "= 31"), same))
    assert first.isdisjoint(keys(TEXT, dict(data="c", weights="b")))
    assert first.isdisjoint(keys(TEXT, dict(data="a", weights="c")))
    assert len(first & keys(TEXT.replace("[1, 2]", "[2, 3]"), same)) == 1
    assert first == keys(TEXT.replace("seeds", 'measures = ["severity"]\nseeds'), same)
    # A value that leaves the grid touches its own cells only.
    assert first == keys(TEXT.replace("[0.4, 0.8]", "[0.4]"), same)


def test_code_version_ignores_words():
    one = code_version.meaning('"""A."""\ndef f(x):\n    """B."""\n    return x  # c\n')
    assert one == code_version.meaning("def f(x): return x\n")
    assert one != code_version.meaning("def f(x): return -x\n")


def test_code_version_of_a_module_covers_what_it_imports(tmp_path, monkeypatch):
    def digest(**sources):
        for name, text in sources.items():
            (tmp_path / "python_layers" / f"{name}.py").write_text(text)
        code_version.of_modules.cache_clear()
        return code_version.of_modules(("python_layers.loss",))

    (tmp_path / "python_layers").mkdir()
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    first = digest(
        loss='"""A."""\nfrom python_layers import maths\n',
        maths="def f():\n    import python_layers.deep\n",
        deep="A = 1\n",
        other="A = 1\n",
    )
    assert digest(loss='"""B."""\nfrom python_layers import maths  # b\n', other="A = 2") == first
    assert digest(deep="A = 2\n") != first
    assert digest(deep="A = 1\n") == first
    assert digest(maths="import python_layers.other\nfrom .deep import A\n") != first
    code_version.of_modules.cache_clear()


def _change_layers(patch):
    patch.setattr(code_version, "of_modules", code_version.of_modules.__wrapped__)
    patch.setattr(code_version, "_imported", lambda tree: ["python_layers.new"])


BOTH = TEXT.replace("[grid]\nlambda = [0.4, 0.8]\n", "").replace("[1, 2]", "[1]")
CHANGES = {
    "a comment": (lambda patch: patch.setitem(tables.TITLES, "sm", "Another"), []),
    "a loss": (
        lambda patch: patch.setitem(
            tables.LOSSES, "glm", dataclasses.replace(tables.LOSSES["glm"], weight=0.7)
        ),
        ["ours"],
    ),
    "a further loss in the net": (
        lambda patch: patch.setattr(tables, "COMMITTED", (*tables.COMMITTED, "hxe")), []
    ),
    "a solver": (
        lambda patch: patch.setitem(
            tables.NETS,
            "squeezenet",
            dataclasses.replace(tables.NETS["squeezenet"], weight_decay=0.5),
        ),
        ["sm", "ours"],
    ),
    "a Python layer": (_change_layers, ["ours"]),
    "options refused": (
        lambda patch: patch.setattr(generated, "_parser", settings.Parser), ["sm", "ours"]
    ),
}  # fmt: skip


@pytest.fixture
def at_hand(tmp_path, monkeypatch):
    """A study of the current folder, whose data set is there, with records of today's code."""
    nets_data.build(tmp_path / "data/mine", "mine", ("species", "family"), [6, 3], 232)
    monkeypatch.chdir(tmp_path)
    study = read(tmp_path, BOTH)
    for known in progress.State(study, cells.Digests()).wanted():
        assert known.missing is None
        made = generated.today(known.place)
        right = {"species": (np.ones(4, bool), None)}
        records.write(known.place.record, record(known, right, made=made))
    return study


def changed(study):
    """Variants whose record is of other code."""
    state = progress.State(study, cells.Digests())
    return [known.cell.row.variant for known in state.wanted() if state.changed(known)]


@pytest.mark.parametrize("change", CHANGES)
def test_other_code_is_what_computes_something_else(at_hand, monkeypatch, change):
    assert changed(at_hand) == []
    apply, variants = CHANGES[change]
    apply(monkeypatch)
    assert changed(at_hand) == variants


def test_what_a_cell_computes_depends_on_no_folder_and_no_hash(tmp_path, at_hand, monkeypatch):
    (tmp_path / "data/mine").rename(tmp_path / "data/moved")
    assert changed(read(tmp_path, BOTH.replace("data/mine", "data/moved"))) == []
    state = progress.State(read(tmp_path, BOTH.replace("data/mine", "data/moved")))
    known = state.wanted()[1]  # key and names differ: no digests
    assert known.cell.row.variant == "ours"
    here = generated.today(known.place)
    text = (
        "from tools.studies import cells, generated, plan, progress; from pathlib import Path\n"
        "state = progress.State(plan.read('mine.toml', Path()), cells.Digests())\n"
        "print(generated.today(state.wanted()[1].place).digest)"
    )
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", text], env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == here.digest, done.stderr


def test_a_table_of_attributes_belongs_to_the_identity(tmp_path, at_hand):
    text = BOTH.replace('["sm", "ours"]', '["sm", "bgl"]')
    study = read(tmp_path, text.replace("max-iter", 'attributes = "a.tsv"\nmax-iter'))

    def keys():
        return [known.place.key for known in progress.State(study, cells.Digests()).wanted()]

    (sm, bgl) = progress.State(study, cells.Digests()).wanted()
    assert sm.missing is None and bgl.missing == "the table of attributes a.tsv is missing"
    (tmp_path / "a.tsv").write_text("species\tred\n")
    first = keys()
    (tmp_path / "a.tsv").write_text("species\tblue\n")
    second = keys()
    assert first[0] == second[0] and first[1] != second[1]


def test_records_of_format_1_are_compared_by_all_sources(at_hand):
    state = progress.State(at_hand, cells.Digests())
    for known, code in zip(state.wanted(), (code_version.of_all(), "other"), strict=True):
        old = dataclasses.replace(known.record, format=1, code=code, generated="of bytes")
        records.write(known.place.record, old)
    assert changed(at_hand) == ["ours"]


# --- Statistics


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_paired_test_agrees_with_scipy_and_mcnemar(seeds):
    rng = np.random.default_rng(seeds)
    a, b = rng.random((seeds, 60)) < 0.8, rng.random((seeds, 60)) < 0.6
    d = a.sum(axis=0) - b.sum(axis=0)
    by_chance = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=200_000, batch=20_000, rng=0
    ).pvalue
    assert significance.paired(a, b) == pytest.approx(by_chance, rel=0.05, abs=2e-4)
    if seeds == 1:
        assert significance.paired(a, b) == pytest.approx(scores.mcnemar(a[0], b[0]), rel=1e-9)


def test_paired_test_of_equal_rows_and_by_enumeration():
    a = np.array([[1, 1, 1, 0, 1], [1, 1, 0, 0, 1]], bool)
    b = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]], bool)
    assert significance.paired(a, a) == 1
    d = a.sum(axis=0, dtype=int) - b.sum(axis=0, dtype=int)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    sums = (signs * np.abs(d)[:, None]).sum(axis=0)
    assert significance.paired(a, b) == pytest.approx(np.mean(np.abs(sums) >= abs(d.sum())))


def test_holm():
    # Holm (1979): 4 p1, then 3 p2, ... each at least the one before.
    found = significance.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]).max() <= 1


def test_no_verdict_where_one_seed_disagrees():
    a, b = np.zeros((2, 400), bool), np.zeros((2, 400), bool)
    a[0, :300] = True
    b[1, :30] = True
    assert significance.paired(a, b) < 0.001
    assert not significance.better([a, b]).any()
    b[1] = False
    a[1, :10] = True
    assert significance.better([a, b]).tolist() == [[False, True], [False, False]]
    assert not significance.better([a, None]).any()


@pytest.mark.parametrize(
    "accuracy, rises",
    [
        (np.linspace(0, 0.8, 15), True),
        (np.r_[np.linspace(0, 0.8, 10), [0.8] * 5], False),
        (np.r_[np.linspace(0, 0.8, 10), [0.79, 0.81, 0.80, 0.79, 0.80]], False),
        (np.r_[np.linspace(0, 0.8, 10), [0.84, 0.83, 0.82, 0.81, 0.80]], False),
        (np.linspace(0, 0.8, 9), None),  # three tests say nothing
    ],
)
def test_convergence(accuracy, rises):
    _, p = convergence.trend(np.arange(len(accuracy)) * 20, accuracy)
    assert convergence.rises(p) is rises


def test_effects_over_seeds():
    first, second = {1: 70.0, 2: 71.0, 3: 69.0, 9: 1.0}, {3: 70.5, 1: 70.5, 2: 73.0}
    found = effects.between(first, second)
    exact = stats.ttest_rel([70.5, 73.0, 70.5], [70.0, 71.0, 69.0]).confidence_interval(0.95)
    assert found.mean == pytest.approx(4 / 3)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(exact))
    assert effects.between(first, {1: 3.0}) is None and effects.between({}, second) is None


# --- Tables


def record(known, right, code=None, p=0.5, measured=None, made=None):
    """A finished record of a progress.Known; right: {level: (own, from_fine)}, bool arrays."""
    cell = known.cell
    levels = tuple(
        records.Level(name, *(None if one is None else records.Answer.of(one) for one in both))
        for name, both in right.items()
    )
    images = len(next(iter(right.values()))[0])
    return records.Record(
        format=records.FORMAT,
        key=known.place.key,
        code=code or code_version.of_modules(made.layers if made else ()),
        generated=made.digest if made else "",
        layers=made.layers if made else (),
        status=records.FINISHED,
        study=cell.study.name,
        data=cell.row.data.name,
        net=cell.row.net.name,
        variant=cell.row.variant,
        role=cell.role,
        seed=cell.seed,
        options=dict(cell.options),
        commands=(),
        commit="abc",
        machine="a machine",
        device="CPU",
        threads=1,
        ended="2026-01-01 00:00 UTC",
        data_sha256="",
        weights_sha256="",
        iterations=30,
        batch=4,
        seconds=12.5,
        images_per_second=9.5,
        scores=records.Scores(cell.split, images, "k", levels, 1.0, measured),
        curve=records.Curve(cell.split, (10, 20), (0.1, 0.2), 0.01, p),
    )


@pytest.fixture
def filled(tmp_path):
    """State of a selecting study with records: OURS is better, with lambda 0.8 most of all."""
    text = SELECTING.replace("[data.mine]", "[data.cub]")
    study = read(tmp_path, text.replace("seeds = [1, 2]", 'seeds = [1, 2]\ntable = "III"'))
    rng = np.random.default_rng(0)
    image = rng.random(400)  # how hard each image is
    rate = {0.1: 0.0, 0.2: 0.2, 0.3: 0.1}
    state = progress.State(study)
    for _ in range(2):  # the trainings for the choice, then the others
        for known in state.wanted():
            options = dict(known.cell.options)
            ours = known.cell.row.variant == "ours"
            level = 0.3 + rate[options["base-lr"]] + 0.3 * ours * options.get("lambda", 0)
            right = image + 0.05 * rng.standard_normal(400) < level
            group = image < level + 0.1
            p = 0.001 if ours else 0.5
            levels = {"species": (right, None), "family": (group if ours else None, group)}
            records.write(known.place.record, record(known, levels, p=p))
    return progress.State(study)


def test_table(filled):
    made = table.make(filled)
    assert made.columns == (("species", "own"), ("family", "own"), ("family", "from_fine"))
    assert [dict(line.chosen)["base-lr"] for line in made.lines] == [0.2] * 3
    best = [line.values["species", "own"].best for line in made.lines]
    above = [line.values["species", "own"].above_first for line in made.lines]
    assert (best, above) == ([False, False, True], [False, True, True])
    assert [line.ends for line in made.lines] == [(), (), ()]
    assert [line.rising for line in made.lines] == [0, 2, 2]
    text = table_text.markdown(made)
    assert "\ncub, squeezenet\n" in text and "| OURS | 0.8 | base-lr 0.2 | **" in text
    assert r"\* |" in text and "not converged (2 of 2)" in text
    assert "cub, squeezenet: difference from SM (95 % interval" in text
    assert re.search(r"\n\| OURS \| 0.8 \| \+\d\d\.\d ± \d+\.\d \|", text), text
    assert "Test figures of other values were not computed" in text
    rows = [line.split(",") for line in table_text.csv_text(made).splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    mean = made.lines[2].values["species", "own"].mean
    assert f"{mean:.4f}" in table_text.csv_text(made)
    latex = table_text.latex(made)
    head = next(line for line in latex.splitlines() if line.startswith("variant &"))
    body = next(line for line in latex.splitlines() if line.startswith("OURS &"))
    assert head.count("&") == body.count("&") and r"\textbf{" in latex and r"$\pm$" in latex
    assert "_" not in latex.replace(r"\_", "")


def test_a_choice_at_the_end_of_the_sweep_is_said(filled):
    (row, *_) = filled.rows
    ends = [table._ends(row, options, {"base-lr"}) for options in row.candidates]
    assert ends == [("base-lr",), (), ("base-lr",)]


def test_cells_and_plot(filled):
    ended = [known.record for known in filled.wanted()]
    lines = [line.split("\t") for line in table_text.cells_text(ended).splitlines()]
    assert len(lines) == 1 + len(ended) == 1 + 3 * 3 * 2 + 3 * 2
    assert {len(line) for line in lines} == {len(lines[0])}
    panels = plot.panels(filled)
    sweep = panels["base-lr", "cub", "squeezenet", "species", "val"]
    assert all(len(values) == 2 for one in sweep for values in one.points.values())
    assert {tuple(one.points) for one in sweep} == {(0.1, 0.2, 0.3)}
    lambdas = panels["lambda", "cub", "squeezenet", "species", "test"]
    grid = {one.label: one.points for one in lambdas}
    assert set(grid["OURS"]) == {0.4, 0.8} and set(grid["SM"]) == {None}
    assert plot.figure(filled).get_axes()


@pytest.mark.parametrize("jobs, each", [(1, 0.5), (2, 1), (4, 1)])
def test_cost_of_trainings_that_share_the_cores(filled, monkeypatch, jobs, each):
    """Two cores: a training of one thread takes as long again with one core, half with two."""
    monkeypatch.setattr(progress, "cores_of_process", lambda: 2)
    known = filled.wanted()[0]
    cells_of = [known.cell] * 8
    table = progress.Costs([], "a machine", "CPU", 1)
    assert progress.Costs([], "a machine", "CPU", 2).total(cells_of) == table.total(cells_of)
    measured = progress.Costs([known], "a machine", "CPU", jobs)  # 12.5 s with one thread
    assert measured.seconds(known.cell) == pytest.approx(12.5 * each)
    assert measured.total(cells_of) == (pytest.approx(8 * 12.5 * each / jobs), 0)
    on_gpu = dataclasses.replace(known.record, device="GPU", threads=2)
    costs = progress.Costs([dataclasses.replace(known, record=on_gpu)], "a machine", "GPU", jobs)
    assert costs.seconds(known.cell) == pytest.approx(12.5)


def test_curves(filled):
    """One panel per row: a line per learning rate, and those of the first row for comparison."""
    sm, *ours = curves.panels(filled)
    assert (sm.name, sm.reference, sm.split) == ("SM", None, "val")
    assert [panel.name for panel in ours] == ["OURS lambda=0.4", "OURS lambda=0.8"]
    assert all(panel.reference is sm for panel in ours)
    for panel in (sm, *ours):
        assert list(panel.lines) == ["base-lr 0.1", "base-lr 0.2", "base-lr 0.3"]
        for line in panel.lines.values():
            assert line.iterations.tolist() == [10, 20]
            assert line.accuracy.tolist() == [[10, 20]] * 2  # the seeds of the choice
    first, second, *_ = curves.figure(filled).get_axes()
    drawn = [line.get_label() for line in second.get_lines()]
    assert drawn[:3] == list(sm.lines) and drawn[3:] == [f"SM, {text}" for text in sm.lines]
    assert [line.get_label() for line in first.get_lines()] == list(sm.lines)


def test_curves_without_a_choice(tmp_path):
    """The trainings of the table; tests that a diverged one did not reach are left out."""
    state = progress.State(read(tmp_path, TEXT))
    with pytest.raises(UserError, match="no training that has ended was tested during it"):
        curves.figure(state)
    for known in state.wanted():
        made = record(known, {"species": (np.arange(4) < 2, None)})
        if known.cell.seed == 2:
            short = dataclasses.replace(made.curve, iterations=(10,), accuracy=(0.3,))
            made = dataclasses.replace(made, curve=short)
        records.write(known.place.record, made)
    sm, *_ = curves.panels(progress.State(state.study))
    assert sm.split == "test" and list(sm.lines) == [""]
    np.testing.assert_allclose(sm.lines[""].accuracy, [[10], [30]])


def test_values_are_varied_one_at_a_time(tmp_path):
    varied = '[vary]\nglm.k = [3, 5]\nskip-input = ["probabilities"]\nglm.margins = [[1, 2]]\n'
    one = read(tmp_path, TEXT.partition("[grid]")[0] + varied)
    shown = [(row.variant, dict(row.shown)) for row in cells.rows(one)]
    assert shown == [
        ("sm", {}),
        ("ours", {}),
        ("ours", {"glm.k": 3}),
        ("ours", {"glm.k": 5}),
        ("ours", {"glm.margins": [1, 2]}),
        ("ours", {"skip-input": "probabilities"}),
    ]
    both = [dict(row.shown) for row in cells.rows(read(tmp_path, TEXT + varied))]
    assert {"lambda": 0.4} in both and {"lambda": 0.8, "glm.k": 5} in both
    assert len(both) == 1 + 2 * 5

    state = progress.State(one)
    for number, known in enumerate(state.wanted()):
        right = {"species": (np.arange(4) < number % 5, None)}
        records.write(known.place.record, record(known, right))
    panels = plot.panels(progress.State(one))
    numbers = {
        one.label: one.points for one in panels["glm.k", "mine", "squeezenet", "species", "test"]
    }
    assert set(numbers["OURS"]) == {None, 3, 5} and set(numbers["SM"]) == {None}
    texts = panels["skip-input", "mine", "squeezenet", "species", "test"]
    assert {point for one in texts for point in one.points} == {None, "probabilities"}
    assert plot.figure(progress.State(one)).get_axes()
    assert "| OURS | glm.margins [1, 2] |" in table_text.markdown(table.make(progress.State(one)))


def test_table_says_what_is_missing_diverged_or_of_other_code(tmp_path):
    state = progress.State(read(tmp_path, TEXT))
    assert all("not run yet" in list(table_text.notes(line)) for line in table.make(state).lines)
    right = {"species": (np.ones(4, bool), None)}
    one, two, *_ = state.wanted()
    records.write(one.place.record, record(one, right, code="old"))
    changes = dict(status=records.DIVERGED, diverged="iteration 3: loss", scores=None, curve=None)
    values = {**record(two, right).__dict__, **changes}
    records.write(two.place.record, records.Record(**values))
    line = table.make(progress.State(state.study)).lines[0]
    assert list(table_text.notes(line)) == ["1 of 2 diverged", "code changed since"]
    assert line.values["species", "own"].spread is None


def test_measures(tmp_path):
    """Mean and spread over seeds without marks; records of versions without them are blank."""
    text = TEXT.replace("seeds", 'measures = ["severity", "recall@1"]\nseeds')
    state = progress.State(read(tmp_path, text.replace("[0.4, 0.8]", "[0.4]")))
    right = {"species": (np.arange(8) < 4, None)}
    values = [{"severity": 1.5, "recall@1": 0.5, "ece": 0.2}, {"severity": None, "recall@1": 0.6}]
    for known, measured in zip(state.wanted(), [*values, {"severity": 2.0}, None], strict=True):
        records.write(known.place.record, record(known, right, measured=measured))
    state = progress.State(state.study)
    sm, ours = table.make(state).lines
    assert sm.measured["severity"] == table.Value(1.5, None, 1)
    assert sm.measured["recall@1"].mean == pytest.approx(55)
    assert sm.measured["recall@1"].spread == pytest.approx(np.std([50, 60], ddof=1))
    assert (sm.lacking, ours.lacking) == ((), ("severity", "recall@1"))
    assert [known.lacks for known in state.wanted()] == [
        (), (), ("recall@1",), ("severity", "recall@1"),
    ]  # fmt: skip
    assert not state.again()  # no weights here
    made = table.make(state)
    text = table_text.markdown(made)
    assert "| severity ↓ | recall@1 ↑ |" in text and "| 1.500 | 55.0 ± 7.1 |" in text
    assert "| 2.000 |  | evaluated without severity, recall@1 |" in text
    rows = [line.split(",") for line in table_text.csv_text(made).splitlines()]
    assert {len(row) for row in rows[:4]} == {len(rows[0])}
    found = {(row[2], row[5]): row for row in rows if row[5] in state.study.measures}
    assert found["sm", "recall@1"][6:9] == ["55.000000", "7.071068", "2"]
    assert found["sm", "severity"][9:14] == ["", "", "", "", "lower"]
    assert ("ours", "recall@1") not in found
    latex = table_text.latex(made)
    assert r"severity $\downarrow$ & recall@1 $\uparrow$" in latex and r"55.0 $\pm$ 7.1" in latex


def test_published_figures():
    found = published.read()
    assert found["III", "cub", "googlenet", "ours"].top1 == 77.6
    assert found["III", "cub_bbox", "googlenet", "ours"].top1 == 82.0
    assert all(figure.source and figure.certainty for figure in found.values())
    assert not any(place[0] in ("I", "II", "IV") for place in found)  # nobody has seen them
