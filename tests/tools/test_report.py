"""tools/report.py on evaluations of the tiny data set whose names try to be markup."""

import html.parser
import json
import re
from collections import Counter

import browser as chromium
import numpy as np
import pytest
import tiny
from browser import browser  # noqa: F401 (a fixture)
from commands import assert_error, run

from data_prep.label_tree import Hierarchy
from tools import evaluated, features, flow_table, results, scores
from tools.reports import charts, confusions, neighborhood, tree

TRUE = [0, 1, 2, 2, 3, 4, 5, 5, 0, 1, 4, 0, 2]
LIT = [0, 1, 3, 2, 3, 4, 5, 5, 2, 1, 0, 0, 3]
HOSTILE = {
    "kind 0": "<script>window.hacked = 1</script>",
    "kind 2": '"><img src=x onerror="window.hacked = 1">',
    "kind 3": "</script><script>window.hacked = 1</script>",
    "kind 4": "{{ 7 * 7 }}{% raw %}",
    "kind 5": "a_very_long_name_without_any_blank_" + "x" * 90,
    "left": "&lt;left&gt; 'a' `b` ${1}",
}
LOG = """\
I1128 11:07:12.026384  6351 solver.cpp:240] Iteration 0 (0 iter/s, 1s/20 iters), loss = 4.5
I1128 11:07:12.026384  6351 solver.cpp:262]     Train net output #0: glm_loss = 4.2 (* 0.8 = 3.4 loss)
I1128 11:07:12.026384  6351 solver.cpp:262]     Train net output #1: loss_fine = 4.3 (* 1 = 4.3 loss)
I1128 11:07:13.026384  6351 solver.cpp:240] Iteration 20 (1 iter/s, 1s/20 iters), loss = 2.5
I1128 11:07:13.026384  6351 solver.cpp:262]     Train net output #0: glm_loss = 2.2 (* 0.8 = 1.8 loss)
I1128 11:07:13.026384  6351 solver.cpp:262]     Train net output #1: loss_fine = nan (* 1 = nan loss)
I1128 11:07:14.026384  6351 solver.cpp:350] Iteration 20, Testing net (#0)
I1128 11:07:14.026384  6351 solver.cpp:445]     Test net output #0: accuracy_fine = 0.46
"""  # noqa: E501
FLOWS = """\
iteration\tloss\tweight\tvalue\tgradient\tshare\tall\tdeviation
0\tglm_loss\t0.8\t4.2\t0.5\t0.5\t0.9\t1e-07
0\tloss_fine\t1\t4.3\t0.5\t0.5\t0.9\t1e-07
10\tglm_loss\t0.8\t4.2\t0.05\t0.5\t0.9\t1e-07
10\tloss_fine\t1\t4.3\t0.5\t0.5\t0.9\t1e-07
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Evaluations sm.json, without features, and ours.json, with them; a log and flows."""
    folder = tmp_path_factory.mktemp("report")
    tiny.data_set(folder / "data", TRUE, LIT)
    table = folder / "data/hierarchy.tsv"
    text = table.read_text()
    for name, hostile in HOSTILE.items():
        text = re.sub(rf"(?m)(?<=\t){re.escape(name)}(?=\t|$)", lambda _, to=hostile: to, text)
    table.write_text(text)
    for stages, heads, name, more in ((), 1, "sm", ()), (("csm",), 3, "ours", ("--features",)):
        solver = tiny.solver(folder, folder / "data", stages)
        weights = tiny.weights(folder / f"w{heads}", heads)
        out = folder / f"{name}.json"
        arguments = ("--solver", solver, "--weights", weights, "--out", out, *more)
        done = run("evaluate", *arguments)
        assert done.returncode == 0, done.stderr
    content = json.loads((folder / "sm.json").read_text())
    content["experiment"] = "<i onclick=alert(1)>sm</i>"
    (folder / "sm.json").write_text(json.dumps(content))
    (folder / "train.log").write_text(LOG)
    (folder / "flows.tsv").write_text(FLOWS)
    return folder


def report(folder, *more, names=("sm", "ours"), out="report.html", fresh=False):
    paths = [folder / f"{name}.json" for name in names]
    return run("report", *paths, "--out", folder / out, *more, fresh=fresh)


def everything(folder):
    return ("--log", folder / "train.log", "--flows", folder / "flows.tsv")


@pytest.fixture(scope="module")
def page(folder):
    """The path of a page with all sections."""
    done = report(folder, *everything(folder))
    assert done.returncode == 0, done.stderr
    assert str(folder / "report.html") in done.stdout
    return folder / "report.html"


class Markup(html.parser.HTMLParser):
    """The tags of a page, their attributes, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_and_names_are_text(page):
    text = page.read_text()
    found = Markup(text)
    assert found.tags["script"] == 2 and not found.tags["i"] and not found.tags["link"]
    for name, value in found.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "srcset", "action"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), value
    assert "@import" not in text and "url(" not in text
    assert HOSTILE["kind 2"] in found.text and HOSTILE["kind 4"] in found.text
    assert "61.5%" in found.text and "glm_loss" in found.text and "McNemar" in found.text
    assert len(text) < 200_000


def test_same_bytes(folder, page):
    assert report(folder, *everything(folder), out="again.html", fresh=True).returncode == 0
    assert (folder / "again.html").read_bytes() == page.read_bytes()


@chromium.needed
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(page, width, browser, tmp_path):  # noqa: F811
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page, width)

    def count(selector):
        return browser.value(f"document.querySelectorAll('{selector}').length")

    def click(selector):
        browser.value(f"document.querySelector('{selector}').click()")

    def fits():
        return browser.value("document.documentElement.scrollWidth") <= width

    assert fits()
    rows = "#matrix-names .name"
    every = 2 + 3 + 6  # nodes of the tree
    assert count(rows) == every  # small trees begin unfolded
    painted = (
        "(canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data].some((value, i, all) => i %% 4 < 3 && value !== all[i %% 4]))"
        "(document.getElementById('%s'))"
    )
    assert browser.value(painted % "matrix-cells") and browser.value(painted % "map")
    click("#matrix-fold")
    assert count(rows) == 2 and fits()
    click(rows)  # the first half
    assert count(rows) == 4
    assert browser.value("document.activeElement.getAttribute('aria-expanded')") == "true"
    click(rows)
    assert count(rows) == 2
    click("#matrix-unfold")
    assert count(rows) == every and fits()
    names = browser.value(f"[...document.querySelectorAll('{rows} span')].map(e => e.textContent)")
    assert set(HOSTILE.values()) < set(names)

    browser.value(
        "(() => { const box = document.getElementById('matrix-cells').getBoundingClientRect();"
        "document.getElementById('matrix-cells').dispatchEvent(new MouseEvent('mousemove',"
        "{clientX: box.left + 3, clientY: box.bottom - 10})); })()"
    )
    assert "taken for" in browser.value("document.getElementById('matrix-status').textContent")

    assert count("#tree-nodes details") == 2
    click("#tree-nodes summary")
    browser.value("new Promise(done => setTimeout(done, 50))")
    click("#tree-unfold")
    assert count("#tree-nodes details[open]") == 5 and count("#tree-nodes .leaf") == 6
    assert count("#tree-nodes details") == 5 and fits()
    click("#tree-fold")
    assert count("#tree-nodes details[open]") == 0

    browser.value(
        "(() => { for (const [id, value] of [['matrix-run', 1], ['map-level', 0]]) {"
        "const select = document.getElementById(id); select.value = value;"
        "select.dispatchEvent(new Event('change')); } })()"
    )
    assert count("#map-legend button") == 6
    click("#map-legend button")
    assert count('#map-legend button[aria-pressed="true"]') == 1 and fits()

    pictures = "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
    assert browser.value(pictures) and count("img") > 10
    assert browser.value("window.hacked === undefined")
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert browser.errors == []
    outside = [one for one in browser.requests if not one.startswith(("file:", "data:image/jpeg"))]
    assert outside == []


def test_one_run_without_photographs(folder, tmp_path):
    """Nothing is read of the LMDB, and what is missing is said."""
    done = report(folder, "--photographs", 0, names=["sm"], out="one.html")
    assert done.returncode == 0, done.stderr
    text = (folder / "one.html").read_text()
    assert "data:image" not in text and "evaluate.py --features" in text and "--log" in text
    assert "Where runs differ" not in text


def test_results_of_earlier_versions(folder):
    content = json.loads((folder / "sm.json").read_text())
    for name in ("version", "decodings", "distance_at", "retrieval", "bootstrap"):
        del content[name]
    for level in content["levels"]:
        level.pop("calibration", None)
    (folder / "old.json").write_text(json.dumps(content))
    (folder / "old.tsv").write_bytes((folder / "sm.tsv").read_bytes())
    done = report(folder, names=["old", "ours"], out="old.html")
    assert done.returncode == 0, done.stderr
    assert "an earlier version evaluated it" in (folder / "old.html").read_text()


def test_flows_are_read_as_they_are_written():
    assert FLOWS.startswith(flow_table.text([]))


def test_chosen_queries(folder):
    done = report(folder, "--query", "00000005", names=["ours"], out="query.html")
    assert done.returncode == 0, done.stderr
    text = (folder / "query.html").read_text()
    assert text.count('class="photos query"') == 1


@pytest.mark.parametrize(
    "more, says",
    [
        (("--query", "12"), "--query 12: the table of"),
        (("--flows", "README.md"), "README.md"),
        (("--log", "README.md"), "is not a log"),
        (("--out", "README.md.html/x.html"), "x.html"),
    ],
)
def test_what_does_not_fit_is_said(folder, more, says, tmp_path):
    (tmp_path / "README.md").write_text("# no log\n")
    more = [tmp_path / one if one == "README.md" else one for one in more]
    if "--out" in more:
        (tmp_path / "README.md.html").write_text("a file")
        more = ["--out", tmp_path / "README.md.html/x.html"]
    done = run("report", folder / "ours.json", "--out", tmp_path / "new.html", *more)
    assert_error(done, says)
    assert not (tmp_path / "new.html").exists()


def test_files_of_others_are_kept(folder):
    (folder / "mine.html").write_text("<p>mine")
    assert_error(report(folder, out="mine.html"), "did not write it")
    assert (folder / "mine.html").read_text() == "<p>mine"


def test_other_images_are_refused(folder, tmp_path):
    content = json.loads((folder / "sm.json").read_text())
    content["split"] = "train"
    (folder / "other.json").write_text(json.dumps(content))
    (folder / "other.tsv").write_bytes((folder / "sm.tsv").read_bytes())
    assert_error(report(folder, names=["ours", "other"], out="x.html"), "same images")


def a_run(seed=0, count=80):
    """Evaluated with random answers, and its rows as lists."""
    rng = np.random.default_rng(seed)
    true, said = rng.integers(6, size=(2, count))
    fine = results.Answers(true, said, rng.random(count))
    levels = (
        fine,
        *(results.Answers(tiny.LABELS[true, j], None, None, tiny.LABELS[said, j]) for j in (1, 2)),
    )
    keys = np.array([f"{i:08d}" for i in range(count)])
    return evaluated.Evaluated(None, None, results.Predictions(keys, levels), tiny.TREE)


def test_worst_confusions():
    one = a_run()
    answers, counts = one.predictions.levels[0], {}
    for true, said in zip(answers.true.tolist(), answers.predicted.tolist()):
        if true != said:
            counts[true, said] = counts.get((true, said), 0) + 1
    found = confusions.worst(one, 5, 3)
    assert [pair.images for pair in found] == sorted(counts.values(), reverse=True)[:5]
    for pair in found:
        true, said = (tiny.TREE.names[0].index(name) for name in (pair.true, pair.predicted))
        assert counts[true, said] == pair.images
        assert pair.of == int((answers.true == true).sum())
        for row in pair.mistaken:
            assert (answers.true[row], answers.predicted[row]) == (true, said)
        sure = answers.probability[list(pair.mistaken)].tolist()
        assert sure == sorted(sure, reverse=True) and len(sure) == min(3, pair.images)
        assert all(answers.true[row] == said for row in pair.examples)


def test_differences():
    first, second = a_run(0), a_run(0)
    changed = second.predictions.levels[0].predicted
    changed[:20] = np.random.default_rng(9).integers(6, size=20)
    found = confusions.difference(first, second, 3)
    counts = {(a, b): 0 for a in (0, 1) for b in (0, 1)}
    one, other = first.predictions.levels[0], second.predictions.levels[0]
    for true, a, b in zip(one.true, one.predicted, other.predicted):
        counts[int(true == a), int(true == b)] += 1
    numbers = (found.both, found.first, found.second, found.neither)
    assert numbers == (counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0])
    right = [answers.true == answers.predicted for answers in (one, other)]
    assert found.p == scores.mcnemar(*right)
    assert all(right[0][row] and not right[1][row] for row in found.first_rows)


def test_nodes_are_depth_first_and_their_accuracies_are_counted():
    shuffled = Hierarchy(
        ("kind", "group"),
        [[0, 1], [1, 0], [2, 1], [3, 0]],
        [["p", "q", "r", "s"], ["even", "odd"]],
    )
    true = np.array([0, 1, 2, 2])
    shown = tree.tree(shuffled, shuffled.labels[true])
    assert shown.names == ["even", "q", "s", "odd", "p", "r"]
    assert shown.parents == [-1, 0, 0, -1, 3, 3] and shown.levels == [1, 0, 0, 1, 0, 0]
    assert shown.images.tolist() == [1, 1, 0, 3, 1, 2]
    said = np.array([2, 1, 2, 1])
    levels = (
        results.Answers(true, said, np.ones(4)),
        results.Answers(shuffled.labels[true, 1], None, None, shuffled.labels[said, 1]),
    )
    one = evaluated.Evaluated(None, None, results.Predictions(None, levels), shuffled)
    own, fine = tree.recalls(shown, one)
    np.testing.assert_allclose(own, [1, 1, np.nan, 2 / 3, 0, 0.5])
    np.testing.assert_allclose(fine, [1, 1, np.nan, 1 / 3, 0, 0.5])
    pairs = np.reshape(tree.confusions(shown, one), (-1, 3)).tolist()
    assert pairs == [[4, 5, 1], [1, 1, 1], [5, 1, 1], [5, 5, 1]]


@pytest.mark.parametrize("part", [1 << 25, 100])
def test_principal_components(monkeypatch, part):
    """Those of the singular value decomposition, whole and in blocks."""
    monkeypatch.setattr(neighborhood.retrieval, "NUMBERS", part)
    values = np.random.default_rng(1).normal(size=(50, 9)) * np.arange(1, 10)
    found = neighborhood.principal(values.astype(np.float32))
    unit = values / np.linalg.norm(values, axis=1)[:, None]
    left, singular, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * singular[:2]
    expected *= np.sign(expected[np.abs(expected).argmax(axis=0), [0, 1]])
    np.testing.assert_allclose(found.points, expected / np.abs(expected).max(), atol=1e-4)
    assert found.shares == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), rel=1e-4)
    assert neighborhood.principal(np.ones((20, 4), np.float32)) is None


def test_neighbors_are_the_nearest(folder):
    found = evaluated.read(folder / "ours.json")
    kept = features.read(found.path, found.result)
    (query,) = neighborhood.queries(kept, [3], 4)
    unit = kept / np.linalg.norm(kept, axis=1)[:, None]
    order = [i for i in sorted(range(13), key=lambda i: (-unit[i] @ unit[3], i)) if i != 3]
    assert list(query.neighbors) == order[:4]
    assert query.likeness == pytest.approx([unit[i] @ unit[3] for i in order[:4]], abs=1e-3)


@pytest.mark.parametrize("low, high", [(0, 1), (0.13, 0.42), (-3, 1e4), (7, 7), (1e-9, 3e-9)])
def test_ticks(low, high):
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 9 and all(low - 1e-12 <= tick <= high + 1e-9 for tick in found)


def test_charts_leave_out_what_is_not_finite():
    x, y = [0, 1, 2, 3], [1, np.nan, np.inf, 3]
    one = charts.chart("a", [(x, y, {"color": "#000", "radii": 2})])
    assert len(one.lines[0].circles) == 2
    empty = charts.chart("a", [([], [], {"color": "#000"})], log=True)
    assert empty.lines[0].points == ""
    for log in (False, True):
        flat = charts.chart("a", [([5], [2], {"color": "#000"})], log=log)
        assert len(flat.lines[0].circles) == 1
