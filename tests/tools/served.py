"""Runs tools/serve.py for tests, and speaks HTTP with it."""

import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import patience
from commands import ROOT

from tools.recognition import answers

BOUNDARY = "a-line-between-parts"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict  # names in lower case
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that runs. log: path of its stderr."""

    address: str
    process: object
    log: object

    def ask(self, method, path, body=None, kind=None, **headers):
        """The Reply to one request. headers: with _ for -."""
        place = urlsplit(self.address)
        client = http.client.HTTPConnection(place.hostname, place.port, timeout=patience.SECONDS)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if kind:
            headers["Content-Type"] = kind
        try:
            client.request(method, path, body, headers)
            found = client.getresponse()
            named = {name.lower(): value for name, value in found.getheaders()}
            return Reply(found.status, named, found.read())
        finally:
            client.close()

    def send(self, data, name="photo.png", **headers):
        """The Reply to a form with one photograph."""
        return self.ask("POST", "/predict", *form((name, data)), **headers)

    def stop(self, number=signal.SIGTERM):
        """The status with which it ends after a signal."""
        self.process.send_signal(number)
        return self.process.wait(patience.SECONDS)


def form(*files):
    """(body, content type) of a form with these files [(name, bytes)]."""
    parts = b""
    for name, data in files:
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'
        )
        parts += head.encode() + data + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


@contextmanager
def serve(folder, *arguments):
    """A Served of tools/serve.py on any free port. folder: for its log."""
    log = folder / "serve.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "tools/serve.py", "--port", "0", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert ": http://" in line, log.read_text()
        yield Served(line.split(": ")[1].split()[0], process, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def predicted(model, path, name, *options):
    """The bytes that predict.py --json prints for a photograph of that name.

    model: its options, such as --model FOLDER.
    """
    from commands import run

    done = run("predict", *model, "--json", *options, path)
    assert done.returncode == 0, done.stderr
    wanted = json.loads(done.stdout)
    wanted["image"] = name
    return answers.encoded(json.dumps(wanted, ensure_ascii=False) + "\n")
