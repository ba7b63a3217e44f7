"""Progress bars with rate and time left, readable in log files too."""

import sys

from tqdm import tqdm

LOG_SECONDS = 10  # between lines in a log file


class _Lines:
    """A stream for tqdm that prints each state on a new line instead of over the last one."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        text = text.strip("\r\n ")
        if text:
            self._stream.write(f"{text}\n")

    def flush(self):
        self._stream.flush()


def bar(what, unit, total, done=0):
    """A tqdm bar on stderr: `done` of `total` units, e.g. "images"."""
    kind = {"desc": what, "unit": f" {unit}", "total": total, "initial": done}
    if sys.stderr.isatty():
        return tqdm(**kind)
    seconds = dict.fromkeys(("delay", "mininterval", "maxinterval"), LOG_SECONDS)
    return tqdm(**kind, **seconds, file=_Lines(sys.stderr), ascii=True, ncols=80)


def each(items, what, unit, total):
    """Yield the items, and show their number in a progress bar."""
    with bar(what, unit, total) as shown:
        for item in items:
            yield item
            shown.update()
