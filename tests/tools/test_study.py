"""tools/study.py as a user runs it: real Caffe, on a data set of noise."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import nets_data
import patience
import pytest
from commands import ROOT

from tools import study as commanded
from tools.nets import tables
from tools.parallel import parents
from tools.studies.measures import MEASURES

CARDS = tables.DATASETS["cards"]
SMOKE = ROOT / "tools/studies/smoke.toml"
ENVIRONMENT = os.environ | {"GLOG_minloglevel": "0"}


def words(*arguments):
    return [sys.executable, str(ROOT / "tools/study.py"), *map(str, arguments)]


def study(folder, *arguments):
    return subprocess.run(
        words(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A current folder with data/cards and data/cards_val of noise, and the smoke study."""
    folder = tmp_path_factory.mktemp("repository")
    for name, more in (("cards", {}), ("cards_val", dict(val=4))):
        nets_data.build(
            folder / "data" / name, "cards", CARDS.levels, CARDS.sizes, 144, 12, 6, **more
        )
    shutil.copy(SMOKE, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The smoke study after one run; what that printed."""
    dry = study(folder, "run", "smoke.toml", "--dry-run")
    done = study(folder, "run", "smoke.toml", "--jobs", "2", "--progress", "--tensorboard", "tb")
    assert done.returncode == 0, done.stderr
    return dry, done


def records(folder):
    """{name of the file: record} without what depends on the clock."""
    found = {}
    for path in sorted((folder / "results/smoke").glob("*.json")):
        record = json.loads(path.read_text())
        for name in ("seconds", "images_per_second", "ended", "machine", "commit"):
            record.pop(name, None)
        record["scores"].pop("seconds")
        found[path.name] = record
    return found


def test_smoke(folder, undisturbed):
    dry, done = undisturbed
    found = records(folder)
    roles = [record["role"] for record in found.values()]
    assert (roles.count("select"), roles.count("final")) == (4, 4)
    for record in found.values():
        selecting = record["role"] == "select"
        assert record["scores"]["split"] == ("val" if selecting else "test")
        # Test images are neither looked at by the losers nor during a final training.
        (solver,) = (folder / "snapshots").glob(f"smoke.{record['key'][:8]}_*/*_solver.prototxt")
        net = next(solver.parent.glob("*_train_val.prototxt")).read_text()
        assert ("data/cards_val/test_" in net) is False
        assert ("curve" in record) == selecting
        if not selecting:
            assert "test_interval: 16" in solver.read_text()
            assert "data/cards_val" not in net
        # What --dry-run printed for the first ones is what ran.
        if selecting:
            assert all(command in dry.stdout for command in record["commands"][:2])
    table = (folder / "results/smoke/table.md").read_text()
    assert table in done.stdout
    assert "Test figures of other values were not computed" in table
    chosen = {record["variant"]: record["options"]["base-lr"] for record in found.values()
              if record["role"] == "final"}  # fmt: skip
    for variant, rate in chosen.items():
        tried = {
            record["options"]["base-lr"]: record["scores"]["levels"][0]["own"]["top1"]
            for record in found.values()
            if record["role"] == "select" and record["variant"] == variant
        }
        assert tried[rate] == max(tried.values()), variant
    assert "left for" in done.stderr and "it/s" not in done.stdout
    assert list((folder / "tb").rglob("events.out.tfevents.*"))
    assert not list((folder / "snapshots").glob("smoke.*/*.solverstate"))
    assert len(list((folder / "snapshots").glob("smoke.*/*.caffemodel"))) == 4


@pytest.mark.parametrize("drawing", ["plot", "curves"])
def test_drawings(folder, undisturbed, drawing):
    done = study(folder, drawing, "smoke.toml")
    assert done.returncode == 0, done.stderr
    written = f"results/smoke/{drawing}.png"
    assert done.stdout.strip().endswith(written)
    assert (folder / written).read_bytes().startswith(b"\x89PNG")
    refused = study(folder, drawing, "smoke.toml", "--out", "curve.jpg")
    assert refused.returncode == 2 and "the name must end in .png" in refused.stderr


def test_a_second_run_does_nothing_and_says_what_changed(folder, undisturbed):
    before = {path: path.stat().st_mtime_ns for path in (folder / "results/smoke").glob("*.json")}
    done = study(folder, "run", "smoke.toml")
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "code changed since" not in study(folder, "status", "smoke.toml").stdout
    (path, *_) = before
    text = path.read_text()
    try:
        path.write_text(text.replace(json.loads(text)["code"], "0" * 64))
        assert study(folder, "status", "smoke.toml").stdout.count("code changed since") == 1
    finally:
        path.write_text(text)


def test_a_record_without_measures_is_evaluated_again(folder, undisturbed):
    """From its final weights, without a training; where they are gone, it is said."""
    before = records(folder)
    stripped = [path for path in (folder / "results/smoke").glob("*.json")
                if json.loads(path.read_text())["role"] == "final"]  # fmt: skip
    assert all(set(before[path.name]["scores"]["measures"]) == set(MEASURES) for path in stripped)
    texts = {path: path.read_text() for path in stripped}
    for path in stripped:
        record = json.loads(path.read_text())
        del record["scores"]["measures"]["recall@1"]
        path.write_text(json.dumps(record))
    key = json.loads(stripped[0].read_text())["key"][:8]
    (weights,) = (folder / "snapshots").glob(f"smoke.{key}_*/*.caffemodel")
    other = weights.rename(weights.with_suffix(".away"))
    said = study(folder, "status", "smoke.toml").stdout
    assert said.count("; evaluated without recall@1") == 4, said
    assert "evaluated without recall@1: 4 cells; `run` evaluates 3 again" in said
    assert "1 can't be: their final weights or data are not here" in said
    dry = study(folder, "run", "smoke.toml", "--dry-run").stdout
    assert dry.count("tools/evaluate.py") == 3 and "caffe train" not in dry
    logs = {path: path.read_bytes() for path in folder.glob("snapshots/smoke.*/train.log")}
    weights.write_bytes(b"of another training")
    done = study(folder, "run", "smoke.toml", "--jobs", "2")
    assert done.returncode == 1 and "holds other weights than those of" in done.stderr
    assert records(folder) == before | {stripped[0].name: records(folder)[stripped[0].name]}
    assert "evaluated without recall@1" in (folder / "results/smoke/table.md").read_text()
    other.rename(weights)
    done = study(folder, "run", "smoke.toml")
    assert done.returncode == 0 and records(folder) == before, done.stderr
    assert logs == {path: path.read_bytes() for path in logs}
    assert "evaluated without" not in (folder / "results/smoke/table.md").read_text()
    for path, text in texts.items():
        path.write_text(text)


def test_committed_results_need_no_data(tmp_path, folder, undisturbed):
    shutil.copytree(folder / "results", tmp_path / "results")
    shutil.copy(SMOKE, tmp_path)
    table = tmp_path / "results/smoke/table.md"
    before = table.read_bytes()
    table.unlink()
    done = study(tmp_path, "table", "smoke.toml")
    assert done.returncode == 0 and table.read_bytes() == before, done.stderr
    shutil.rmtree(tmp_path / "results")
    done = study(tmp_path, "run", "smoke.toml")
    assert done.returncode == 1
    command = "data_prep/build_lmdb.py cards --validation 104 --out data/cards_val"
    assert f"not run: the data set data/cards_val is not built: {command}" in done.stderr
    assert study(tmp_path, "table", "smoke.toml").stderr.startswith("note: the data set")


def test_renew(tmp_path, folder, undisturbed, monkeypatch, capsys):
    """What follows from the records is made again, where it is; a page follows its table."""
    studies = tmp_path / "tools/studies"
    shutil.copytree(folder / "results", studies / "results")
    shutil.copy(SMOKE, studies)
    results = studies / "results/smoke"
    (results / "plot.png").unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)  # where no data sets are
    monkeypatch.setattr(commanded, "FOLDER", tmp_path / "tools")
    monkeypatch.setattr(sys, "argv", ["study.py", "renew"])
    commanded.main()  # earlier tests have changed records
    wanted = (results / "table.md").read_text()
    (results / "curves.png").write_bytes(b"an older one")
    (part,) = re.findall("^cards, .*(?<!:)$", wanted, re.MULTILINE)[:1]
    page = (
        "<!-- tools/studies/results/smoke/table.md: {} -->\n| x | card |\n|---|---|\n| SM | {} |\n"
    )
    (tmp_path / "README.md").write_text(page.format(part, "1.0"))
    (tmp_path / "OTHER.md").write_text("no table\n")
    (results / "table.md").write_text("an older one")
    (studies / "results/gains.md").write_text("an older one")
    capsys.readouterr()
    commanded.main()
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "4 of 7 files have changed", said
    assert (results / "table.md").read_text() == wanted
    assert (results / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (results / "plot.png").exists()
    (figure,) = re.findall(r"\| SM \| (.*) \|", (tmp_path / "README.md").read_text())
    assert figure != "1.0" and figure in wanted
    head, _, ours, *published = (studies / "results/gains.md").read_text().splitlines()[2:]
    assert head == "| study | data | network | SM | OURS |"
    assert ours.startswith(f"| smoke | cards | squeezenet | {figure.split()[0].strip('*')} | ")
    assert "| the paper | cub | googlenet | 73.6 | +4.0 |" in published
    commanded.main()
    assert capsys.readouterr().out == "0 of 7 files have changed\n"


def test_killed_at_random_moments_gives_the_same_table(tmp_path, folder, undisturbed):
    """kill -9 of the run: its commands end with it, and the next run goes on, bit for bit."""
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.copy(SMOKE, tmp_path)
    run = words("run", "smoke.toml", "--jobs", "2")
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    for _ in range(4):
        process = subprocess.Popen(
            run, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(1.5, 4.5))
        children = parents.children(process.pid)
        process.kill()
        process.wait()
        end = time.monotonic() + patience.SECONDS
        while running := [pid for pid in children if _is_running(pid)]:
            assert time.monotonic() < end, running
            time.sleep(0.05)
    done = study(tmp_path, "run", "smoke.toml", "--jobs", "2")
    assert done.returncode == 0, (seed, done.stderr)
    assert records(tmp_path) == records(folder), seed
    for name in ("table.md", "table.csv", "table.tex"):
        assert (tmp_path / "results/smoke" / name).read_bytes() == (
            folder / "results/smoke" / name
        ).read_bytes(), seed


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_saves_and_a_failed_cell_does_not_stop_the_others(tmp_path, folder):
    """Endless training: the run is interrupted and says so; its snapshot is where it resumes."""
    (tmp_path / "broken.caffemodel").write_bytes(b"no weights")
    (tmp_path / "long.toml").write_text(
        'title = "long"\nvariants = ["sm"]\nseeds = [1]\n[data.cards]\n'
        '[nets.alexnet]\nweights = "broken.caffemodel"\n[nets.squeezenet]\nweights = ""\n'
        "[options]\ntrain-batch = 2\nmax-iter = 1000000\ntests = 0\n"
    )
    shutil.copytree(folder / "data", tmp_path / "data")
    nets_data.build(tmp_path / "data/cards_256", "cards", CARDS.levels, CARDS.sizes, 256, 4, 2)
    process = subprocess.Popen(
        words("run", "long.toml"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + patience.SECONDS
    while not any("Iteration 0" in path.read_text(errors="replace")
                  for path in tmp_path.glob("snapshots/long.*squeezenet*/train.log")):  # fmt: skip
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.1)
    second = study(tmp_path, "run", "long.toml")
    assert second.returncode == 1 and "another run of this study is going on" in second.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=patience.SECONDS)
    assert process.returncode == 130 and "interrupted" in errors
    assert "FAILED cards alexnet sm seed 1: the training ended with status" in errors
    text = study(tmp_path, "status", "long.toml").stdout
    assert "resumes at iteration 0 of" not in text.split("squeezenet")[1], text
    assert "0 of 2 cells have ended" in text
