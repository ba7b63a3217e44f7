"""Prototxt text with comments, from messages."""

import json
import re
import textwrap

from google.protobuf import text_format

_WHOLE = re.compile(r"(?m)(?<=: )(\d+)\.0$")  # 104.0 reads better as 104
_PARAM_STR = re.compile(r'(?m)^( *param_str: )"((?:[^"\\]|\\.)*)"$')
_LONG = 46  # lines longer than this don't move the column of the reasons


def comment(*lines):
    """The lines (strings, which may hold several), each after '# '."""
    return "".join(f"# {line}".rstrip() + "\n" for line in "\n".join(lines).split("\n"))


def _in_single_quotes(match):
    """JSON without a backslash before every quote."""
    content = match[2].replace('\\"', '"')
    return match[0] if "'" in content or "\\" in content else f"{match[1]}'{content}'"


def net_text(net, header, notes):
    """Text of a NetParameter.

    header: lines above. notes: {layer name: lines above the first layer of that name}.
    """
    notes = dict(notes)
    parts = [comment(*header), f'name: "{net.name}"\n']
    for layer in net.layer:
        if layer.name in notes:
            parts.append("\n" + comment(*notes.pop(layer.name)))
        body = text_format.MessageToString(layer)
        body = _WHOLE.sub(r"\1", _PARAM_STR.sub(_in_single_quotes, body))
        parts.append("layer {\n" + "".join(f"  {line}\n" for line in body.splitlines()) + "}\n")
    return "".join(parts)


def _field(name, value):
    if isinstance(value, tuple):
        return textwrap.fill(
            f"{name}: [{', '.join(map(str, value))}]", 100, subsequent_indent="    "
        )
    if isinstance(value, bool):
        return f"{name}: {str(value).lower()}"
    if isinstance(value, str):
        if value.startswith("{"):
            return f"{name} {value}"
        return f"{name}: {json.dumps(value, ensure_ascii=False)}"
    return f"{name}: {value}"


def rows_text(rows):
    """A line 'field: value  # reason' per row (field, value, reason or None).

    A str is quoted, unless it starts with "{": then it is a message. A tuple is a repeated field.
    """
    lines = [(_field(name, value), reason) for name, value, reason in rows]
    column = max((len(line) for line, reason in lines if reason and len(line) <= _LONG), default=0)
    return "".join(
        f"{line.ljust(column)}  # {reason}\n" if reason else f"{line}\n" for line, reason in lines
    )
