"""tools/serve.py: answers, errors, load, who may ask, and how it starts and stops."""

import dataclasses
import http.client
import json
import random
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import cv2
import numpy as np
import patience
import photo_set
import pytest
import served
from commands import assert_error, run

from data_prep.common.errors import UserError
from tools.recognition import examples, model as models
from tools.serving import app as application, log, server as servers, worker as workers

MOST = 0.25  # MB


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_set.make(tmp_path_factory.mktemp("photos"), "--encoded", "png")


@pytest.fixture(scope="module")
def model(photos):
    """An exported folder."""
    folder = photos.folder / "model"
    done = run("export", "--solver", photos.solver, "--out", folder, "--readers", "onnxruntime")
    assert done.returncode == 0 and "examples.jpg" in done.stdout, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with served.serve(folder, "--model", model, "--max-upload", MOST, "--top", 3) as one:
        yield one


@pytest.fixture(scope="module")
def photo(photos):
    return photos.listed()[0][1]


@pytest.mark.parametrize("name", ["photo.png", "Bär <b>&.png", "../../etc/passwd"])
def test_answer_is_that_of_predict(server, model, photo, name):
    reply = server.send(photo.read_bytes(), name)
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.body == served.predicted(("--model", model), photo, name)


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg; x=y", "application/octet-stream"])
def test_body_as_photograph(server, photo, kind):
    reply = server.ask("POST", "/predict", photo.read_bytes(), kind)
    assert reply.status == 200 and reply.json["image"] == "photograph"
    assert {**reply.json, "image": "x"} == server.send(photo.read_bytes(), "x").json


def test_solver(photos, model, photo, tmp_path):
    """Caffe computes in the model's thread, and the sheet is made from the data set."""
    options = ("--decode", "joint", "--crops", 10, "--top", 9)
    with served.serve(tmp_path, "--solver", photos.solver, *options) as one:
        reply = one.send(photo.read_bytes(), "p")
        wanted = served.predicted(("--solver", photos.solver), photo, "p", *options)
        assert reply.status == 200 and reply.body == wanted
        assert len(reply.json["best"]) == 4  # all classes
        sheet = one.ask("GET", "/examples.jpg")
        assert sheet.status == 200 and sheet.headers["content-type"] == "image/jpeg"
        assert sheet.body == (model / "examples.jpg").read_bytes()
        assert one.stop(signal.SIGINT) == 0
        assert one.process.stdout.read() == "stopped\n"
    assert "Traceback" not in one.log.read_text()


def broken(photo):
    data = photo.read_bytes()
    body, kind = served.form(("a.png", data))
    two = served.form(("a.png", data), ("b.png", data))
    huge = bytes(int(MOST * 2**20) + 1)
    slightly = b"\x89PNG" + huge[4:]
    return {
        "cut short": (400, "cut short", data[: len(data) // 2], "image/png"),
        "empty": (400, "is empty", b"", "image/png"),
        "no file": (400, "no photograph", *served.form(("", b""))),
        "two files": (400, "2 photographs", *two),
        "no end": (400, "no photograph", body[:40], kind),
        "no boundary": (400, "no photograph", body, "multipart/form-data"),
        "text": (415, "not an image", b"hello " * 9, "image/png"),
        "pdf": (415, "not an image", *served.form(("a.png", b"%PDF-1.4\n" * 9))),
        "heic": (415, "save it as JPEG", b"\0\0\0\x18ftypheic" + bytes(99), "image/heic"),
        "curl --data": (415, "multipart/form-data", data, "application/x-www-form-urlencoded"),
        "no type": (415, "multipart/form-data", data, None),
        "too large": (413, "larger than 0.25 MB", slightly, "image/png"),
        "form too large": (413, "larger than 0.25 MB", *served.form(("a", slightly))),
        "huge": (413, "larger than 0.25 MB", huge * 8, "image/png"),
        "huge form": (413, "larger than 0.25 MB", *served.form(("a.png", huge * 8))),
        "many pixels": (400, "pixels", _png(60000, 60000), "image/png"),
    }


def _png(width, height):
    """The start of a PNG of that size, and its end."""
    ok, data = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))
    data = bytearray(data.tobytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


CASES = sorted(broken(type("", (), {"read_bytes": lambda: b"." * 99})))


@pytest.mark.parametrize("case", CASES)
def test_errors(server, photo, case):
    status, says, body, kind = broken(photo)[case]
    reply = server.ask("POST", "/predict", body, kind)
    assert reply.status == status and reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["error"] and says in reply.json["error"], reply.json


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/predict", 405),
        ("PUT", "/", 405),
        ("GET", "/nothing", 404),
        ("GET", "/../../../etc/passwd", 404),
        ("GET", "/page/../../app.py", 404),
        ("GET", "/a%0aWed%20GET%20/%20200", 404),
    ],
)
def test_addresses(server, method, path, status):
    reply = server.ask(method, path)
    assert reply.status == status and list(reply.json) == ["error"]
    lines = server.log.read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d [A-Z-]+ [/-].* \d\d\d", line) for line in lines), lines


def test_too_large_is_answered_before_it_is_sent(server):
    """A client that asks first gets the status at once."""
    place = server.address.split("/")[2]
    client = http.client.HTTPConnection(place, timeout=patience.SECONDS)
    client.putrequest("POST", "/predict")
    for header in (("Content-Length", "99999999"), ("Expect", "100-continue")):
        client.putheader(*header)
    client.endheaders()
    assert client.getresponse().status == 413
    client.close()


def test_chunked(server, photo):
    """Bodies without a length are bounded, too."""
    parts = [photo.read_bytes()]
    assert server.ask("POST", "/predict", iter(parts), "image/png").status == 200
    try:
        reply = server.ask("POST", "/predict", iter([bytes(2**20)] * 4), "image/png")
    except ConnectionError:  # closed while the client was sending
        reply = None
    assert reply is None or reply.status == 413
    assert server.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:80"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "rebound.example:8000"}, 403),
        ({"Host": "localhost.rebound.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "[[["}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://elsewhere.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
    ],
)
def test_who_may_ask(server, headers, status):
    reply = server.ask("GET", "/health", **headers)
    assert reply.status == status and (status == 200 or list(reply.json) == ["error"])


def test_every_answer_has_security_headers(server, photo):
    for reply in (
        server.ask("GET", "/"),
        server.ask("GET", "/page.js"),
        server.ask("GET", "/nothing"),
        server.send(photo.read_bytes()),
        server.send(b"text"),
    ):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert "server" not in reply.headers and "access-control-allow-origin" not in reply.headers


def test_files_are_cached_by_their_content(server):
    for path in ("/", "/page.css", "/page.js", "/icon.svg", "/model", "/examples.jpg"):
        reply = server.ask("GET", path)
        assert reply.status == 200
        assert server.ask("GET", path, If_None_Match=reply.headers["etag"]).status == 304


def test_load(server, model, photos):
    """32 clients at once, a quarter of them with broken and huge uploads: all get their answer."""
    cases, rng = broken(photos.listed()[0][1]), random.Random(0)
    tasks = []
    for _, path, _ in photos.listed() * 9:
        tasks.append((path, None))
        tasks += [(None, cases[rng.choice(CASES)])] * (rng.random() < 0.4)
    rng.shuffle(tasks)
    wanted = {
        path: served.predicted(("--model", model), path, "p") for _, path, _ in photos.listed()
    }

    def one(task):
        path, case = task
        if path:
            reply = server.send(path.read_bytes(), "p")
            return reply.status == 200 and reply.body == wanted[path]
        status, _, body, kind = case
        return server.ask("POST", "/predict", body, kind).status == status

    with ThreadPoolExecutor(32) as clients:
        right = list(clients.map(one, tasks))
    assert len(right) > 80 and all(right)
    assert server.ask("GET", "/health").json == {"status": "ok"}
    assert "Traceback" not in server.log.read_text()


class Slow:
    """An engine that begins when it may, and may fail."""

    def __init__(self, engine):
        self._engine, self.begun, self.may = engine, threading.Semaphore(0), threading.Semaphore(0)
        self.fails = None

    def width(self, name):
        return self._engine.width(name)

    def compute(self, batch, names):
        self.begun.release()
        assert self.may.acquire(timeout=patience.SECONDS)
        if self.fails:
            raise self.fails
        return self._engine.compute(batch, names)


@pytest.fixture
def slow(model, tmp_path):
    """(Served without a process, its engine, its Server, the thread that serves)."""
    loaded = models.from_folder(model, "caffe")
    engine = Slow(loaded.engine)
    worker = workers.Worker(
        lambda: dataclasses.replace(loaded, engine=engine), rule="fine", top=3, crops=1, places=2
    )
    worker.start()
    settings = application.Settings("slow", 1 << 20)
    app = application.create(worker, settings)
    server = servers.Server(app, servers.listen("127.0.0.1", 0), 2, 1 << 21, "too large")
    thread = threading.Thread(target=server.run)
    thread.start()
    yield served.Served(f"http://127.0.0.1:{server.port}/", None, None), engine, server, thread
    for _ in range(9):
        engine.may.release()
    server.stop()
    thread.join()
    worker.close()


def test_more_than_may_wait_are_sent_away(slow, photo):
    """Of three photographs, two have a place, whichever come first; the third is sent away."""
    one, engine, _, _ = slow
    data = photo.read_bytes()
    with ThreadPoolExecutor(3) as clients:
        sent = [clients.submit(one.send, data) for _ in range(3)]
        (away, *_), inside = wait(sent, timeout=patience.SECONDS, return_when=FIRST_COMPLETED)
        reply = away.result()
        assert reply.status == 503 and len(inside) == 2
        assert int(reply.headers["retry-after"]) > 0 and "waiting" in reply.json["error"]
        assert one.ask("GET", "/health").status == one.ask("GET", "/").status == 200
        engine.may.release()
        engine.may.release()
        assert [each.result().status for each in inside] == [200, 200]
    engine.may.release()
    assert one.send(data).status == 200


def test_lines_of_the_log_are_whole(monkeypatch):
    """Each is written at once: those of several threads don't run into one another."""
    written = []

    class Stderr:
        write, flush = staticmethod(written.append), staticmethod(lambda: None)

    monkeypatch.setattr(sys, "stderr", Stderr)
    log.request("GET", "/health", 200, 0.002)
    log.problem("a sentence\nof two lines")
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in written]
    assert lines == ["GET /health 200 2 ms\n", "a sentence\\nof two lines\n"]


def test_stop_finishes_what_runs(slow, photo):
    one, engine, server, thread = slow
    with ThreadPoolExecutor(2) as clients:
        inside = [clients.submit(one.send, photo.read_bytes()) for _ in range(2)]
        assert engine.begun.acquire(timeout=patience.SECONDS)
        server.stop()
        with pytest.raises(ConnectionError):  # no new ones
            for _ in range(100):
                one.ask("GET", "/health")
                time.sleep(0.05)
        engine.may.release()
        engine.may.release()
        done = [each.exception() or each.result().status for each in inside]
    assert 200 in done  # the second one may have come too late
    thread.join(patience.SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [UserError("/secret/net can't"), ValueError("/secret/bug")])
def test_failures_of_the_model_stay_in_the_log(slow, photo, error, capfd):
    one, engine, _, _ = slow
    engine.fails = error
    engine.may.release()
    reply = one.send(photo.read_bytes())
    assert reply.status == 500 and "log" in reply.json["error"] and b"secret" not in reply.body
    assert "/secret/" in capfd.readouterr().err
    engine.fails = None
    engine.may.release()
    assert one.send(photo.read_bytes()).status == 200


def test_every_address(model, tmp_path):
    """With --host 0.0.0.0, as in a container, clients may use any name of the machine."""
    with served.serve(tmp_path, "--model", model, "--host", "0.0.0.0") as one:
        assert one.address.startswith("http://localhost:")
        assert one.ask("GET", "/health", Host="a-name.example").status == 200
        other = one.ask("GET", "/health", Host="a-name.example", Origin="http://b.example")
        assert other.status == 403


def test_stopping_while_clients_stay_connected(model, tmp_path):
    with served.serve(tmp_path, "--model", model, "--host", "localhost") as one:
        place = one.address.split("/")[2].split(":")
        with socket.create_connection((place[0], int(place[1]))) as idle:
            idle.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n")
            assert one.ask("GET", "/health").status == 200
            began = time.monotonic()
            assert one.stop() == 0
        assert time.monotonic() - began < servers.PATIENCE / 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--host", "no.such.name.invalid"), "no.such.name.invalid"),
        (("--host", "192.0.2.1"), "not an address of this machine"),
        (("--model", "nothing"), "nothing is not an exported model"),
        (("--model", "MODEL", "--port", "PORT"), "is in use: choose another one with --port"),
    ],
)
def test_refuses_to_start(server, model, arguments, says):
    words = {"MODEL": str(model), "PORT": server.address.rstrip("/").rsplit(":")[-1]}
    arguments = [words.get(word, word) for word in arguments]
    if "--model" not in arguments:
        arguments += ["--model", model]
    if "--port" not in arguments:
        arguments += ["--port", "0"]
    assert_error(run("serve", *arguments), says)


def test_facts(server, model):
    facts = server.ask("GET", "/model").json
    names = json.loads((model / "labels.json").read_text())["levels"][0]["classes"]
    assert facts["examples"] == {
        "image": "/examples.jpg",
        "side": 128,
        "columns": 16,
        "classes": names,
    }
    assert [level["name"] for level in facts["levels"]][:2] == ["kind", "group"]
    assert facts["max_upload"] == MOST * 2**20 and facts["title"] == "model"


def test_sheet(photos, model):
    """Tile i has the first training image of class i, and the rest is white."""
    data = (model / examples.FILE).read_bytes()
    sheet = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)
    assert sheet.shape == (128, 16 * 128, 3)
    rows = photos.listed("train")
    for label in range(4):
        path = min((key, path) for key, path, each in rows if each == label)[1]
        wanted = cv2.resize(cv2.imread(str(path)), (128, 128), interpolation=cv2.INTER_AREA)
        tile = sheet[:, 128 * label : 128 * (label + 1)]
        assert np.abs(tile - wanted).mean() < 8
        others = [cv2.resize(cv2.imread(str(path)), (128, 128)) for _, path, _ in rows]
        near = sorted(range(len(others)), key=lambda i: np.abs(tile - others[i]).mean())
        assert rows[near[0]][1] == path
    assert (sheet[:, 4 * 128 + 16 :] > 250).all()  # JPEG blurs the edge


@pytest.mark.parametrize(
    "classes, side, shape",
    [
        (1, 128, (2048, 128)),
        (16, 128, (2048, 128)),
        (17, 128, (2048, 256)),
        (1024, 128, (2048, 8192)),
        (1025, 64, (1024, 65 * 64)),
        (4096, 64, (1024, 16384)),
        (4097, None, None),
    ],
)
def test_shape_of_the_sheet(classes, side, shape):
    assert examples.tile_side(classes) == side and examples.shape(classes) == shape
    if side:
        places = {examples.place(i, side) for i in range(classes)}
        assert len(places) == classes
        assert max(x for x, _ in places) + side <= shape[0]
        assert max(y for _, y in places) + side == shape[1]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 no image", "of 17 classes"])
def test_damaged_sheet(tmp_path, content):
    if isinstance(content, str):
        content = cv2.imencode(".jpg", np.zeros((256, 2048, 3), np.uint8))[1].tobytes()
        assert examples.read(tmp_path, 17) is None
    (tmp_path / examples.FILE).write_bytes(content)
    with pytest.raises(UserError, match="export the model again"):
        examples.read(tmp_path, 16)


def test_damaged_table(photos, tmp_path):
    (tmp_path / "train_images").symlink_to(photos.data / "train_images")
    lines = (photos.data / "train.tsv").read_text().splitlines()
    for changed, says in ((["x\ty"], "line 2"), (["a\tb\t99"], "line 2"), (lines[:0:-1], "class")):
        keys = [line.split("\t")[0] for line in lines[1:]]
        if len(changed) > 1:  # the labels of other records
            changed = ["\t".join([key, *line.split("\t")[1:]]) for key, line in zip(keys, changed)]
        (tmp_path / "train.tsv").write_text("\n".join([lines[0], *changed]) + "\n")
        with pytest.raises(UserError, match=says):
            examples.sheet(tmp_path, 4)


def test_no_examples(photos, model, tmp_path, server):
    out = tmp_path / "plain"
    done = run(
        *(
            "export",
            "--solver",
            photos.solver,
            "--out",
            out,
            "--readers",
            "onnxruntime",
            "--no-examples",
        )
    )
    assert done.returncode == 0 and not (out / examples.FILE).exists(), done.stderr
    assert examples.FILE not in (out / "README.md").read_text()
    card = (model / "README.md").read_text()
    assert "small copies of training photographs" in card and f"| `{examples.FILE}` |" in card
    assert examples.unavailable(photos.data, 5000) and examples.unavailable(tmp_path, 4)
