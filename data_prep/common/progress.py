"""Progress bars with rate and time left, also readable where the output is a file."""

import sys

from tqdm import tqdm

LOG_SECONDS = 10  # before the first line and between two, where they stay


class _Lines:
    """A stream for tqdm on which each state is a line, instead of written over the last one."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            self._stream.write(f"{text}\n")

    def flush(self):
        self._stream.flush()


def bar(what, unit, total, done=0):
    """A tqdm bar on stderr for `total` of a unit, e.g. "images", of which `done` are done."""
    kind = {"desc": what, "unit": f" {unit}", "total": total, "initial": done}
    if sys.stderr.isatty():
        return tqdm(**kind)
    seconds = dict.fromkeys(("delay", "mininterval", "maxinterval"), LOG_SECONDS)
    return tqdm(**kind, **seconds, file=_Lines(sys.stderr), ascii=True, ncols=80)


def each(items, what, unit, total):
    """Yield the items while a bar shows how many have been taken."""
    with bar(what, unit, total) as shown:
        for item in items:
            yield item
            shown.update()
