"""Every README.md: the commands in it exist and take the options shown, and the recipes run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import patience
import pytest

from tools.studies import quotes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ALL = "".join(
    path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]
)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", ALL, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.split("#")[0].strip()
]
SCRIPTS = sorted(
    {
        command
        for command in COMMANDS
        if command.startswith(("tools/", "data_prep/", "docker/build_caffe.sh"))
    }
)
OWN = README[README.index("## Your own photographs") : README.index("## Your own network")]


def run(command, **more):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)


def test_there_are_commands():
    assert len(COMMANDS) > 8 and len(SCRIPTS) > 3


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"`?make ([a-z-]+)\b", ALL)) - {"it", "that"})
)
def test_make_targets_exist(target):
    result = run(["make", "-n", target])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", SCRIPTS)
def test_scripts_take_the_options_shown(command):
    script, *arguments = shlex.split(command)
    assert os.access(ROOT / script, os.X_OK)
    subcommand = [arguments[0]] if arguments and not arguments[0].startswith("-") else []
    subcommand = [word for word in subcommand if re.fullmatch("[a-z]+", word)]
    interpreter = ["bash"] if script.endswith(".sh") else [sys.executable]
    text = run([*interpreter, script, *subcommand, "--help"]).stdout
    for option in re.findall(r"--[a-z-]+", command):
        assert re.search(rf"{option}\b", text), f"{script} {subcommand} has no {option}"


@pytest.mark.parametrize(
    "path",
    sorted(
        set(
            re.findall(
                r"(?<![\w/.-])(?:prototxt|tools|data_prep|python_layers|docker)/[\w./-]+\.\w+", ALL
            )
        )
    ),
)
def test_files_named_exist(path):
    made = (
        path.startswith("prototxt/mine/") or path == "docker/versions.txt"
    )  # by a recipe, a build
    assert made or (ROOT / path).exists()


@pytest.mark.parametrize(
    "page, tables",
    [("README.md", 6), ("python_layers/README.md", 3), ("tools/studies/head_regime.md", 1)],
)
def test_figures_are_those_of_the_studies(page, tables):
    """`tools/study.py renew` would change nothing in the tables that pages quote."""
    assert quotes.renewed(ROOT / page, ROOT) == ((ROOT / page).read_text(), tables)


def test_layer_example_is_the_one_in_the_nets():
    """The prototxt shown parses as a layer, and its parameters are accepted by the layer."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    from python_layers.glm_loss import PARAMETERS
    from python_layers.parameters import parse

    net = text_format.Parse(
        re.search(r"```\n(layer \{.*?)```", README, re.DOTALL)[1], caffe_pb2.NetParameter()
    )
    assert parse(net.layer[0].python_param.param_str, PARAMETERS, "README")["margins"] == [1, 1]


def check_page(line, environment, photo):
    """The line serves a page, its files, and an answer for a photograph; it ends when stopped."""
    server = subprocess.Popen(
        ["bash", "-c", line], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        address = re.search(r"http://\S+/", server.stdout.readline())[0]
        with urllib.request.urlopen(address, timeout=patience.SECONDS) as page:
            assert "Choose a photograph" in page.read().decode()
        with urllib.request.urlopen(f"{address}examples.jpg", timeout=patience.SECONDS) as sheet:
            assert sheet.headers["Content-Type"] == "image/jpeg"
        sent = urllib.request.Request(
            f"{address}predict", photo.read_bytes(), {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(sent, timeout=patience.SECONDS) as answer:
            levels = json.load(answer)["levels"]
        assert [level["predicted"].split()[0] for level in levels] == ["kind", "group"]
        server.terminate()
        assert server.wait(patience.SECONDS) == 0
    finally:
        server.kill()
        server.communicate()


def test_own_photographs(tmp_path):
    """The lines for a user's own photographs, on drawn ones, SqueezeNet and two iterations."""
    rng = np.random.default_rng(0)
    for kind in range(4):
        folder = tmp_path / "PHOTOS" / f"group {kind % 2}" / f"kind {kind}"
        folder.mkdir(parents=True)
        for number in range(6):
            cv2.imwrite(
                str(folder / f"{number}.jpg"), rng.integers(0, 255, (64, 80, 3)).astype(np.uint8)
            )
    blocks = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", OWN, re.DOTALL)]
    names = [[line.split()[0].split("/")[-1] for line in block] for block in blocks]
    assert names == [
        ["build_lmdb.py", "make_prototxt.py", "caffe", "evaluate.py", "export.py", "serve.py"],
        ["plot_log.py", "draw_predictions.py", "report.py", "predict.py"],
    ]
    (*lines, page), more = blocks
    changes = (
        ("--root PHOTOS", f"--root {tmp_path}/PHOTOS --test-share 0.5"),
        ("--net googlenet", "--net squeezenet --name readme_test --train-batch 8 --max-iter 2"),
        ("-weights weights/bvlc_googlenet.caffemodel", ""),
        ("mine_googlenet", "readme_test_squeezenet"),
        ("prototxt/mine", f"{tmp_path}/prototxt"),
        ("data/mine", f"{tmp_path}/mine"),
        ("results/mine", f"{tmp_path}/mine"),
        ("models/mine", f"{tmp_path}/model"),
        ("train.log", f"{tmp_path}/train.log"),
        ("tools/serve.py", f"exec {shlex.quote(sys.executable)} tools/serve.py --port 0"),
        ("photo.jpg holiday/", f"{tmp_path}/PHOTOS --out {tmp_path}/photos.tsv"),
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "0"}

    def changed(line):
        for old, new in changes:
            line = line.replace(old, new)
        return line

    try:
        for line in lines + more:
            result = run(["bash", "-o", "pipefail", "-c", changed(line)], env=environment)
            assert result.returncode == 0, (
                line + "\n" + result.stdout[-999:] + result.stderr[-2000:]
            )
        assert "Optimization Done" in (tmp_path / "train.log").read_text()
        assert (tmp_path / "mine_curves.png").stat().st_size
        assert (tmp_path / "mine_predictions.png").stat().st_size
        assert (tmp_path / "mine_report.html").stat().st_size
        assert (tmp_path / "model/model.onnx").stat().st_size
        assert (tmp_path / "photos.tsv").read_text().count("\n") == 25
        check_page(changed(page), environment, next((tmp_path / "PHOTOS").rglob("*.jpg")))
    finally:
        for folder in (ROOT / "snapshots").glob("readme_test_*"):
            shutil.rmtree(folder)
