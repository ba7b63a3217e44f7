"""Prototxts as messages. Imports no package until it is called, for tools/check_env.py."""

from pathlib import Path

KINDS = {"SolverParameter": "solver", "NetParameter": "net"}


def parse(path, *messages):
    """Parse a prototxt into the first of the messages, all empty, that it fits; returns that.

    Raises ValueError, one sentence, where it can't be read or fits none.
    """
    from google.protobuf import text_format

    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        what = " or ".join(KINDS[message.DESCRIPTOR.name] for message in messages)
        raise ValueError(f"{what} {path} is not there, seen from {Path.cwd()}") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from None
    reasons = []
    for message in messages:
        try:
            return text_format.Parse(text, message)
        except text_format.ParseError as error:
            reasons.append(f"{KINDS[message.DESCRIPTOR.name]} ({error})")
    raise ValueError(f"{path} is no {' and no '.join(reasons)}")


def read(path, *messages):
    """As parse, but raises the UserError of commands."""
    from data_prep.cli import UserError

    try:
        return parse(path, *messages)
    except ValueError as error:
        raise UserError(str(error)) from None
