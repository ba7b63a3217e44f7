"""Finds the fields of a prototxt with their positions, without any message definition.

protobuf's own parser stops at the first field that Caffe does not define, and does not keep
positions. This scanner works on the text, so that a field can be reported with its line, hidden
from the parser, or replaced.
"""

import re
from dataclasses import dataclass

DEEPEST = 100  # nested messages; nets have about 6
_TOKEN = re.compile(
    r"""(?P<skip>[\s;,]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<open>[{<]) | (?P<close>[}>]) | (?P<colon>:) | (?P<list>[\[\]])
      | (?P<word>[^\s{}<>:;,\[\]"'\#]+)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"""\\(["'\\])""")


class ScanError(ValueError):
    """The text is not a sequence of fields; protobuf's parser says where."""


class TooDeep(ValueError):
    """Messages are nested deeper than DEEPEST. The argument is the line."""


@dataclass
class Field:
    """A field as written.

    name       as written
    line       of the name, from 1
    start, end offsets of the field in the text: text[start:end] is all of it
    value      of a scalar, without quotes; several in [ ] are joined by blanks; None: a message
    children   Fields of a message, [] for a scalar
    """

    name: str
    line: int
    start: int
    end: int = 0
    value: str | None = None
    children: list = None

    def child(self, name):
        """The first field of that name in this message, or None."""
        return next((field for field in self.children if field.name == name), None)

    def text(self, name):
        """Value of a scalar field of this message, "" where it is not given."""
        found = self.child(name)
        return (found.value or "") if found else ""


def fields(text):
    """[Field] of a prototxt. Raises ScanError or TooDeep."""
    top, pending = [], None
    open_messages = [(None, top)]
    line, counted = 1, 0  # line of the offset `counted`
    listed = None  # values of the list that is open
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ScanError
        start, position, kind, token = position, match.end(), match.lastgroup, match[0]
        if kind == "skip":
            continue
        if kind in ("string", "word") and listed is not None:
            listed.append(_plain(kind, token))
        elif kind == "string":
            _take_string(pending, open_messages[-1][1], token, position)
            pending = None
        elif kind == "word" and pending is None:
            line, counted = line + text.count("\n", counted, start), start
            pending = Field(token, line, start, children=[])
        elif kind == "word":
            pending.value, pending.end = token, position
            open_messages[-1][1].append(pending)
            pending = None
        elif kind == "open" and pending is not None:
            if len(open_messages) > DEEPEST:
                raise TooDeep(pending.line)
            open_messages[-1][1].append(pending)
            open_messages.append((pending, pending.children))
            pending = None
        elif kind == "close" and pending is None and len(open_messages) > 1:
            open_messages.pop()[0].end = position
        elif token == "[" and pending is not None:
            listed = []
        elif token == "]" and listed is not None:
            pending.value, pending.end = " ".join(listed), position
            open_messages[-1][1].append(pending)
            pending = listed = None
        elif kind != "colon" or pending is None:
            raise ScanError
    if pending is not None or len(open_messages) > 1:
        raise ScanError
    return top


def _plain(kind, token):
    """A scalar's value: strings lose their quotes and the escapes of quotes."""
    return _ESCAPE.sub(r"\1", token[1:-1]) if kind == "string" else token


def _take_string(pending, siblings, token, end):
    """Give a string to the field that waits for it, or append it to the string before it."""
    if pending is not None:
        pending.value, pending.end = _plain("string", token), end
        siblings.append(pending)
    elif siblings and siblings[-1].value is not None:
        siblings[-1].value += _plain("string", token)
        siblings[-1].end = end
    else:
        raise ScanError


def replace(text, edits):
    """The text with spans replaced. edits: (start, end, new text), which do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def blank(text, spans):
    """The text with spans (start, end) as blanks: every line keeps its number."""
    return replace(
        text, [(start, end, re.sub(r"[^\n]", " ", text[start:end])) for start, end in spans]
    )
