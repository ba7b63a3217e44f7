"""Damage to bytes and JSON values, from a seeded random.Random."""

import json

HOSTILE = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b"\t",
    b"nan",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"[" * 5000,
    b'"',
    b"\xf0\x28\x8c\x28",
    "\u202e\u0000$x^{".encode(),
]
VALUES = [None, True, -1, 0, 1.5, 10**400, 1e308, "", "x", [], {}, [[]], {"": 0}]


def damaged(rng, data):
    """A copy of the bytes with one to four faults: cut, repeated, swapped, or replaced parts."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 4, 40, 400)))
        kind = rng.randrange(5)
        if kind == 0:
            del data[start:end]
        elif kind == 1:
            data[start:start] = data[start:end] * rng.randint(1, 3)
        elif kind == 2:
            data[start:end] = rng.choice(HOSTILE)
        elif kind == 3:
            data[start:end] = bytes(rng.randrange(256) for _ in range(end - start))
        elif len(data) > 1:
            del data[rng.randrange(len(data)) :]
    return bytes(data)


def places(value, path=()):
    """Every place in a decoded JSON value, as a tuple of keys and indices."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(rng, value):
    """Text of a decoded JSON value in which one place is replaced, removed or doubled."""
    value = json.loads(json.dumps(value))
    path = rng.choice([*places(value)][1:])
    part = value
    for step in path[:-1]:
        part = part[step]
    kind = rng.randrange(3)
    if kind == 0:
        del part[path[-1]]
    elif kind == 1 and isinstance(part, list):
        part.append(part[path[-1]])
    else:
        part[path[-1]] = rng.choice(VALUES)
    return json.dumps(value)
