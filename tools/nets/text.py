"""Prototxt text with comments, from messages."""

import re

from google.protobuf import text_format

_WHOLE = re.compile(r"(?m)(?<=: )(\d+)\.0$")  # 104.0 reads better as 104
_PARAM_STR = re.compile(r'(?m)^(\s*param_str: )"((?:[^"\\]|\\.)*)"$')


def comment(*paragraphs):
    """'# ' before every line of the paragraphs' text."""
    lines = "\n".join(paragraphs).split("\n")
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _json_in_single_quotes(match):
    inner = match[2].replace('\\"', '"')
    return f"{match[1]}'{inner}'" if "'" not in inner and "\\" not in inner else match[0]


def net_text(net, header, notes):
    """Text of a NetParameter: header, then each layer, preceded by its note where notes has one for its name."""
    parts = [comment(header), f'name: "{net.name}"\n']
    said = set()
    for layer in net.layer:
        if layer.name in notes and layer.name not in said:
            said.add(layer.name)
            parts.append("\n" + comment(notes[layer.name]))
        body = text_format.MessageToString(layer, use_short_repeated_primitives=False)
        body = _WHOLE.sub(r"\1", _PARAM_STR.sub(_json_in_single_quotes, body))
        parts.append("layer {\n" + "".join(f"  {line}\n" for line in body.splitlines()) + "}\n")
    return "".join(parts)


def rows_text(rows):
    """Lines 'field: value  # reason' with the reasons in one column; rows (field, value, reason or None).

    A str is quoted, unless it starts with "{": then it is a message.
    """
    lines = []
    for field, value, reason in rows:
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, str) and not value.startswith("{"):
            value = f'"{value}"'
        lines.append((f"{field} {value}" if str(value).startswith("{") else f"{field}: {value}", reason))
    width = max(len(line) for line, reason in lines if reason) if any(r for _, r in lines) else 0
    return "".join(f"{line.ljust(width)}  # {reason}\n" if reason else f"{line}\n" for line, reason in lines)
