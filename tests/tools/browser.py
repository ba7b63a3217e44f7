"""Opens pages in headless Chromium, through its debugging protocol on two pipes."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import patience
import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
needed = pytest.mark.skipif(PROGRAM is None, reason="no chromium: docker/packages.sh browser")


class Browser:
    """A Chromium with one page.

    errors: what the page reported as errors; requests: addresses that it asked for.
    """

    def __init__(self, folder):
        to_browser, from_browser = os.pipe(), os.pipe()
        self._out, self._in, self._parts = os.fdopen(to_browser[1], "wb"), from_browser[0], [b""]
        self.errors, self.requests, self._events = [], [], []
        options = (
            "--headless --remote-debugging-pipe --disable-gpu --no-first-run --disable-sync "
            "--disable-background-networking --disable-component-update --hide-scrollbars "
            f"--force-device-scale-factor=1 --user-data-dir={folder}"
        ).split()
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to run as root with it
        ends = f"3<&{to_browser[0]} 4>&{from_browser[1]}"
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" {ends}', PROGRAM, *options, "about:blank"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, which close() ends
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._number, self._session = 0, None
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self):
        """End Chromium, so that none of its processes writes to its folder any more."""
        self._session = None
        try:
            self._call("Browser.close")
            self._process.wait(patience.SECONDS)
        finally:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all have ended
            self._process.wait()
        self._out.close()
        os.close(self._in)

    def _receive(self):
        while b"\0" not in self._parts[-1]:
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._parts.append(part)
        last, _, rest = self._parts.pop().partition(b"\0")
        found = json.loads(b"".join([*self._parts, last]))
        self._parts = [rest]
        return found

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        kind, params = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        self._events.append(kind)

    def open(self, path, width, height=900):
        """Load a file in a window of that width, in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600),
        )
        self._events.clear()
        self._call("Page.navigate", url=Path(path).resolve().as_uri())
        end = time.monotonic() + patience.SECONDS
        while "Page.loadEventFired" not in self._events:
            assert time.monotonic() < end, "the page does not load"
            self._note(self._receive())

    def value(self, expression):
        """What a JavaScript expression gives, as JSON."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self, path):
        """Write a PNG of the whole page."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self._call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip=dict(x=0, y=0, width=size["width"], height=min(size["height"], 16000), scale=1),
        )
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path):
        """Print the page to a PDF."""
        Path(path).write_bytes(base64.b64decode(self._call("Page.printToPDF")["data"]))


@pytest.fixture(scope="module")
def browser():
    with tempfile.TemporaryDirectory() as folder:
        one = Browser(folder)
        try:
            yield one
        finally:
            one.close()
