"""Prototxts as protobuf messages, read from files and handed to Caffe in files."""

import tempfile
from contextlib import contextmanager

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from data_prep.common.errors import UserError
from data_prep.common.text import read_text

KINDS = {"SolverParameter": "solver", "NetParameter": "net"}


def read(path, *messages):
    """Parse a prototxt into the first of the messages, all empty, that it fits; returns that.

    UserError, in one sentence, where it can't be read or fits none.
    """
    kinds = [KINDS[message.DESCRIPTOR.name] for message in messages]
    text = read_text(path, " or ".join(kinds))
    reasons = []
    for kind, message in zip(kinds, messages):
        try:
            return text_format.Parse(text, message)
        except (text_format.ParseError, DecodeError, ValueError, RecursionError) as error:
            reasons.append(f"{kind} ({str(error) or 'nested too deeply'})")
    raise UserError(f"{path} is not a {' and not a '.join(reasons)}")


@contextmanager
def as_file(message):
    """The path of a temporary prototxt of the message, for Caffe, which reads files only."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", encoding="utf-8") as file:
        file.write(text_format.MessageToString(message))
        file.flush()
        yield file.name
