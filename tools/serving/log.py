"""The access log: a short line per request on stderr."""

import sys
import threading
import time

_writing = threading.Lock()  # requests are answered by several threads


def request(method, path, status, seconds=None):
    """Log one request. Anything that a client chose is written as printable ASCII."""
    took = "" if seconds is None else f" {1000 * seconds:.0f} ms"
    _write(f"{_safe(method)} {_safe(path)} {status}{took}")


def problem(what):
    """Log a sentence."""
    _write(_safe(what, 2000))


def _write(text):
    """Write a line in one piece: print writes the end of a line by itself."""
    with _writing:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()


def _safe(text, most=80):
    text = ascii(str(text))[1:-1]
    return text if len(text) <= most else text[:most] + "..."


class Silent:
    """A logger that writes nothing."""

    def warning(self, *args, **more):
        pass
