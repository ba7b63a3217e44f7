"""tools/graft.py on damaged prototxts: one sentence, or a net that Caffe runs.

Small nets of every format are changed at random: tokens are deleted, repeated, swapped and replaced
by others, layers are moved, bytes are overwritten. The seed of a failure is in its message. The
number of nets is 150 times FUZZ (cases.py).
"""

import os
import random
import re
import signal
from pathlib import Path

import caffe
import nets_data
import pytest
from cases import count
from graft_nets import (
    AUXILIARY,
    CLASSIFIER,
    CONV,
    FC,
    MINI,
    ONE,
    OUTPUTS,
    PROB,
    SIDE,
    V0,
    V1,
    data_layers,
    graft,
    in_child,
    set_up_in_child,
)
from test_graft_foreign import DIGITS, SQUEEZED, TRANSLATED, by_stage

from tools.nets import foreign, tables

COUNT = count(150)
BODY = CONV + FC + CLASSIFIER
NETS = [
    MINI,
    data_layers("crop_size: 16 mean_value: 1") + CONV + AUXILIARY + FC + CLASSIFIER + OUTPUTS,
    by_stage("crop_size: 16", 'source: "x"') + BODY + DIGITS,
    MINI.replace(CLASSIFIER + PROB, "") + SQUEEZED,
    V0,
    V1,
    TRANSLATED["Axpy"][0],
    TRANSLATED["ReLU6 in place"][0],
    TRANSLATED["implementation"][0],
]
WORDS = [
    *("0", "-1", "1", "3", "4294967295", "99999999999999999999", "1e30", "nan", "inf", "true"),
    *('""', '"data"', '"label_1"', '"fc8_fine"', '"a/b"', '"\\n"', '"\\377"', "'", "[", "]", "{"),
    *("}", ":", "#", "layer", "layers", "type", "bottom", "top", "include", "phase", "TRAIN"),
    *("stage", "input", "input_dim", "blobs", "param", "name", '"Python"', '"Split"', '"Slice"'),
    *('"Input"', '"Data"', '"Reshape"', '"BatchNorm"', '"Deconvolution"', '"Concat"', "RELU"),
]
TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|[{}:]|\s+')
OPTIONS = [
    ("--list-features", "--feature", "conv"),
    (*ONE, "--translate", "translated.prototxt"),
    (*ONE, "--translate", "translated.prototxt"),
    ONE,
    (*ONE, "--feature", "conv", "--map", "pool"),
    (*ONE, "--feature", "drop1"),
    (*ONE, "--crop", "16", "--mean", "0"),
]


def change(rng, text):
    """The text with one random change."""
    tokens = TOKEN.findall(text)
    if not tokens:
        return text
    one, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    kind = rng.randrange(9)
    if kind == 0:
        del tokens[one]
    elif kind == 1:
        tokens.insert(one, tokens[other])
    elif kind == 2:
        tokens[one], tokens[other] = tokens[other], tokens[one]
    elif kind in (3, 4):
        tokens[one] = rng.choice(WORDS)
    elif kind == 5:  # a name for another of its kind
        names = [index for index, token in enumerate(tokens) if token[0] == '"']
        if names:
            tokens[rng.choice(names)] = tokens[rng.choice(names)]
    elif kind == 6:  # lines: repeated, moved, lost
        lines = text.splitlines(keepends=True)
        start = rng.randrange(len(lines))
        part = lines[start : start + rng.randrange(1, 4)]
        if rng.random() < 0.5:
            del lines[start : start + len(part)]
        at = rng.randrange(len(lines) + 1)
        return "".join(lines[:at] + part * rng.randrange(2) + lines[at:])
    elif kind == 7:
        return text[: rng.randrange(len(text))]
    else:
        at = rng.randrange(len(text))
        return (
            text[:at] + chr(rng.choice((0, 10, 34, 35, 92, 123, 125, 233, 65533))) + text[at + 1 :]
        )
    return "".join(tokens)


def runs(path, variant):
    """Does Caffe set up the net of a variant, in both phases?"""

    def run():
        for phase in (caffe.TRAIN, caffe.TEST):
            caffe.Net(str(path), phase, stages=list(tables.STAGES[variant]))

    done = in_child(run)
    return done.returncode == 0 or done.stderr


def check(text, options):
    """The command keeps its promises on a prototxt."""
    made = {"data", "mini_deploy.prototxt"}
    done = graft(text, *options)
    new = {entry.name for entry in Path().iterdir()} - made
    if done.returncode:
        assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1 and len(done.stderr) < 1500, done.stderr
        assert not new, new
        return
    assert done.stderr == ""
    assert new <= {"nets", "snapshots", "translated.prototxt"}, new
    if "--list-features" not in options:
        assert sorted(entry.name for entry in Path("nets").iterdir()) == [
            "mine_mini_deploy.prototxt",
            "mine_mini_ours_solver.prototxt",
            "mine_mini_train_val.prototxt",
        ]
        assert runs("nets/mine_mini_train_val.prototxt", "ours") is True


@pytest.mark.parametrize("part", range(5))
def test_damaged_prototxts(tmp_path, monkeypatch, part):
    monkeypatch.setattr(foreign, "set_up", set_up_in_child)
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    nets_data.build(Path("data"), "mine", ("plant", "genus"), (12, 4), SIDE, train=8, test=4)
    taken = 0
    for number in range(part, COUNT, 5):
        rng = random.Random(number)
        text = rng.choice(NETS)
        for _ in range(rng.choice((1, 1, 1, 1, 2, 5))):
            text = change(rng, text)
        options = rng.choice(OPTIONS)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "data").symlink_to(tmp_path / "first" / "data")
        monkeypatch.chdir(folder)
        try:
            check(text, options)
        except BaseException as error:
            raise AssertionError(f"seed {number}, options {options}, net:\n{text}") from error
        taken += Path("nets").exists()
    print(f"{len(range(part, COUNT, 5))} prototxts, {taken} of them grafted")


def test_the_fork_of_the_test_says_what_the_command_says(tmp_path, monkeypatch):
    """A crash of Caffe is seen as such; packages in the current folder are not imported."""
    monkeypatch.chdir(tmp_path)
    Path("tools").mkdir()
    Path("tools/__init__.py").write_text("raise SystemExit")
    done = in_child(lambda: os.kill(os.getpid(), signal.SIGABRT))
    assert done.returncode == -signal.SIGABRT
    (tmp_path / "net.prototxt").write_text(MINI)
    one, other = (ask(tmp_path / "net.prototxt") for ask in (set_up_in_child, foreign.set_up))
    assert one.returncode == other.returncode == 0
    assert one.stdout.splitlines()[-1] == other.stdout.splitlines()[-1]
