"""Random damage to text and bytes, and the promise that commands keep for any input."""

import random

from data_prep.common.errors import UserError

TOKENS = [
    *(
        b"",
        b"\t",
        b",",
        b"\n",
        b"\r\n",
        b'"',
        b"'",
        b"#",
        b";",
        b"=",
        b" ",
        b"\0",
        b"\xff",
        b"\x1b",
    ),
    *(b"-1", b"0", b"1e999", b"nan", b"9" * 5000, b"../../x", b"/etc/passwd", b"\xc2\xa0"),
    *(
        b"e\xcc\x81",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"train",
        b"test",
        b"val",
        b"key",
        b"[" * 9999,
    ),
    *(b"{", b"}", b"null", b"true", b'{"a": 1}', b"\\u0000", b"path", b"split", b"x1", b"_id"),
]


def damaged(chance, data, most=4):
    """`data` (bytes) after one to `most` random changes. chance: random.Random."""
    for _ in range(chance.randint(1, most)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((0, 1, 1, 2, 8, 60)))
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:start] + data[end:]
        elif kind == 1:
            data = data[:start] + bytes(chance.randrange(256) for _ in data[start:end]) + data[end:]
        elif kind == 2:
            data = data[:end] + data[start:end] + data[end:]
        elif kind == 3:
            other = chance.randrange(len(data) + 1)
            data = data[:start] + data[other : other + chance.randrange(40)] + data[end:]
        else:
            data = data[:start] + chance.choice(TOKENS) + data[end:]
    return data


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
