"""A browser that visits served pages, chooses files there and waits for what the page shows."""

import time

import patience
from browser import Browser


class Visitor(Browser):
    """A Browser for addresses."""

    def visit(self, address, width, height=900):
        """Load an address in a window of that width, in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600),
        )
        self._events.clear()
        self._call("Page.navigate", url=address)
        end = time.monotonic() + patience.SECONDS
        while "Page.loadEventFired" not in self._events:
            assert time.monotonic() < end, "the page does not load"
            self._note(self._receive())

    def choose(self, selector, *paths):
        """Choose files in a file input, as a person does in its dialog."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=list(map(str, paths)))

    def drag(self, selector, *paths):
        """Drop files on an element."""
        place = self.value(
            f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        data = dict(items=[], files=list(map(str, paths)), dragOperationsMask=1)
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=data)

    def until(self, expression):
        """Wait until a JavaScript expression is true; returns its value."""
        end = time.monotonic() + patience.SECONDS
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)
        return found
