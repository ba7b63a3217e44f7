"""Following the log of a training, and TensorBoard's event files of it."""

import struct

import pytest
from commands import assert_error, run

from tools import event_files, live

LINES = [
    "I20260101 23:59:58.000000 1 solver.cpp:1] Iteration 0 (0 iter/s, 0.1s/20 iters), loss = 5",
    "I20260101 23:59:58.000000 1 solver.cpp:1]  Train net output #0: loss_fine = 4 (* 1 = 4 loss)",
    "I20260102 00:00:08.000000 1 solver.cpp:1] Iteration 20 (2 iter/s, 10s/20 iters), loss = 4",
    "I20260102 00:00:08.000000 1 solver.cpp:1] Train net output #0: loss_fine = 3 (* 1 = 3 loss)",
    "I20260102 00:00:09.000000 1 solver.cpp:1] Iteration 30, Testing net (#0)",
    "I20260102 00:00:09.000000 1 solver.cpp:1] Test net output #0: accuracy_fine = 0.25",
    "I20260102 00:00:28.000000 1 solver.cpp:1] Iteration 40 (1 iter/s, 20s/20 iters), loss = 3",
]


def test_follower_reads_a_log_as_it_grows(tmp_path):
    path = tmp_path / "train.log"
    follower = live.Follower(path, max_iter=100)
    assert not follower.look() and follower.text() == "no iteration yet"
    text = "\n".join(LINES) + "\n"
    for part in (text[:150], text[150:151], text[151:]):
        with open(path, "a") as file:
            file.write(part)
        follower.look()
    assert follower.seconds == 30 and follower.speed == 2  # the second report includes a test
    assert follower.left == pytest.approx(60 / 1.5)
    assert follower.text() == (
        "iteration 40/100, 2 it/s, 40 s left, loss 3 fine 3, accuracy_fine 25.0%"
    )
    with open(path, "a") as file:  # killed for an hour, then resumed from iteration 20
        file.write(live.BEGIN + LINES[2].replace("00:00:08", "01:00:08") + "\n")
        file.write("I20260102 01:00:10.000000 1 solver.cpp:1] Optimization Done.\n")
    follower.look()
    assert follower.seconds == 32 and follower.iteration == 20 and follower.done


def scalars(folder):
    """{(tag, step): value} of the event files in a folder: TFRecords of Event messages."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_event_files_hold_each_value_once(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("\n".join(LINES[:4]) + "\n")
    follower, events = live.Follower(path), event_files.EventFiles(tmp_path / "tb")
    follower.look()
    events.update("one", follower.log)
    path.write_text("\n".join(LINES) + "\n")
    follower.look()
    events.update("one", follower.log)
    events.close()
    assert scalars(tmp_path / "tb/one/train") == {
        ("loss", 0): 5, ("loss", 20): 4, ("loss", 40): 3, ("loss_fine", 0): 4, ("loss_fine", 20): 3,
    }  # fmt: skip
    assert scalars(tmp_path / "tb/one/test") == {("accuracy_fine", 30): 0.25}


def test_watch_log_and_plot_log(tmp_path):
    """The commands: a finished log is followed to its end, a growing one once; event files."""
    log, solver = tmp_path / "train.log", tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt" max_iter: 100')
    log.write_text("\n".join(LINES) + "\n")
    done = run("watch_log", log, "--once", "--solver", solver)
    assert done.stdout.startswith("iteration 40/100, 2 it/s, 40 s left"), done.stderr
    with open(log, "a") as file:
        file.write("I20260102 00:00:30.000000 1 solver.cpp:1] Optimization Done.\n")
    done = run("watch_log", log, "--tensorboard", tmp_path / "watched")
    assert done.returncode == 0 and "iteration 40, done" in done.stdout, done.stderr
    values = scalars(tmp_path / "watched/train/train")
    assert values["loss", 40] == 3
    done = run("plot_log", log, "--out", tmp_path / "c.png", "--tensorboard", tmp_path / "drawn")
    assert done.returncode == 0 and "wrote event files into" in done.stdout, done.stderr
    assert scalars(tmp_path / "drawn/train/train") == values
    assert_error(run("watch_log", tmp_path / "none.log"), "the log")
