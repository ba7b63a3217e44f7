"""Reads prototxt files as protobuf messages, and passes messages to Caffe as files."""

import tempfile
from contextlib import contextmanager

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from data_prep.common.errors import UserError
from data_prep.common.text import read_text

KINDS = {"SolverParameter": "solver", "NetParameter": "net"}


def read(path, *messages):
    """Parse a prototxt into the first of the given empty messages that it fits; returns that one.

    Raises UserError, in one sentence, if it can't be read or fits none of them.
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
    """Path of a temporary prototxt of the message, since Caffe reads only files."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", encoding="utf-8") as file:
        file.write(text_format.MessageToString(message))
        file.flush()
        yield file.name
