"""Random damage to bytes and JSON values, and the promise that commands keep for any input."""

import json
import random

from data_prep.common.errors import UserError

TOKENS = [
    *(b"", b"\t", b",", b"\n", b"\n\n", b"\r", b"\r\n", b'"', b"'", b"#", b";", b"=", b" ", b"\0"),
    *(
        b"\xff",
        b"\xff\xfe",
        b"\xf0\x28\x8c\x28",
        b"\x1b",
        b"-1",
        b"0",
        b"1e999",
        b"nan",
        b"9" * 5000,
    ),
    *(b"../../x", b"/etc/passwd", b"\xc2\xa0", b"e\xcc\x81", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *("\u202e\u0000$x^{".encode(), b"train", b"test", b"val", b"key", b"[" * 9999),
    *(b"{", b"}", b"null", b"true", b'{"a": 1}', b"\\u0000", b"path", b"split", b"x1", b"_id"),
]
VALUES = [None, True, -1, 0, 1.5, 10**400, 1e308, "", "x", [], {}, [[]], {"": 0}]


def damaged(chance, data, most=4):
    """`data` (bytes) after one to `most` random changes. chance: random.Random."""
    for _ in range(chance.randint(1, most)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((0, 1, 1, 2, 8, 60, 400)))
        part, other = data[start:end], chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            part = b""
        elif kind == 1:
            part = bytes(chance.randrange(256) for _ in part)
        elif kind == 2:
            part *= chance.randint(2, 4)
        elif kind == 3:
            part = data[other : other + chance.randrange(40)]
        elif kind == 4:
            part = chance.choice(TOKENS)
        else:  # cut off
            start, part, end = other, b"", len(data)
        data = data[:start] + part + data[end:]
    return data


def places(value, path=()):
    """Every place in a decoded JSON value, as a tuple of keys and indices."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(chance, value):
    """Text of a decoded JSON value in which one place is replaced, removed or doubled."""
    value = json.loads(json.dumps(value))
    path = chance.choice([*places(value)][1:])
    part = value
    for step in path[:-1]:
        part = part[step]
    kind = chance.randrange(3)
    if kind == 0:
        del part[path[-1]]
    elif kind == 1 and isinstance(part, list):
        part.append(part[path[-1]])
    else:
        part[path[-1]] = chance.choice(VALUES)
    return json.dumps(value)


def chance(name, seed):
    return random.Random(f"{name} {seed}")


def keeps_its_promise(main, *arguments):
    """Run a command's main(); whether it did what was asked.

    It may refuse with a UserError of one clear sentence or a usage error. Anything else fails.
    """
    try:
        return not main([*map(str, arguments)])
    except UserError as error:
        sentence = str(error)
        assert sentence and "Traceback" not in sentence
        return False
    except SystemExit as end:
        assert end.code == 2
        return False
