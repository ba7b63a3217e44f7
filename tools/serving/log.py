"""The access log: a short line per request on stderr."""

import sys
import time


def request(method, path, status, seconds=None):
    """Log one request. Anything that a client chose is written as printable ASCII."""
    took = "" if seconds is None else f" {1000 * seconds:.0f} ms"
    line = f"{time.strftime('%H:%M:%S')} {_safe(method)} {_safe(path)} {status}{took}"
    print(line, file=sys.stderr, flush=True)


def problem(what):
    """Log a sentence."""
    print(f"{time.strftime('%H:%M:%S')} {_safe(what, 2000)}", file=sys.stderr, flush=True)


def _safe(text, most=80):
    text = ascii(str(text))[1:-1]
    return text if len(text) <= most else text[:most] + "..."


class Silent:
    """A logger that writes nothing."""

    def warning(self, *args, **more):
        pass
