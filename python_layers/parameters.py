"""The param_str of a Python layer: a JSON object, checked against the layer's table of parameters.

A layer states its parameters as a dictionary of `Parameter`s; `parse` returns a value for each one.
Every mistake in a param_str raises one ValueError that names the layer and the parameter.
"""

import difflib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Largest whole number: the largest that Caffe's own parameters can hold.
MOST = 2**31 - 1

# Largest margin. A float64 distance next to a larger one loses the digits that a gradient needs.
MOST_MARGIN = 1e9

# Range of the length that features are normalized to.
SCALES = 1e-3, 1e3

# Longest number, in characters. Python refuses to convert integers of more than 4300 digits.
LONGEST_NUMBER = 1000

# Most characters of a user's text in a message.
SHOWN = 100


@dataclass(frozen=True)
class Parameter:
    """One entry of a layer's table.

    default:     value when param_str does not name the parameter.
    description: what a valid value is, to be read after "must be".
    valid:       function of a decoded JSON value that returns whether it is valid.
    """

    default: Any
    description: str
    valid: Callable[[Any], bool]


def is_number(value):
    """True for a finite JSON number (Python's booleans are integers, JSON's are not)."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def boolean(default):
    return Parameter(default, "true or false", lambda value: isinstance(value, bool))


def choice(default, *names):
    return Parameter(default, " or ".join(f'"{name}"' for name in names), lambda v: v in names)


def whole_number(default, least=1, most=MOST):
    return Parameter(
        default,
        f"a whole number from {least} to {most}",
        lambda v: is_integer(v) and least <= v <= most,
    )


def number(default, least, most):
    return Parameter(
        default,
        f"a number from {least:g} to {most:g}",
        lambda v: is_number(v) and least <= v <= most,
    )


def margin(default):
    return number(default, 0, MOST_MARGIN)


def scale():
    """The length that `normalize` gives to features."""
    return number(1.0, *SCALES)


def margins(default):
    return Parameter(
        default,
        f"a list of numbers from 0 to {MOST_MARGIN:g}",
        lambda v: (
            isinstance(v, list)
            and len(v) > 0
            and all(is_number(x) and 0 <= x <= MOST_MARGIN for x in v)
        ),
    )


def parse(param_str, table, layer):
    """The layer's parameters as a dictionary with one value for every name in `table`.

    param_str: the prototxt's string; empty means all defaults.
    table:     {name: Parameter}.
    layer:     name of the layer's class, for messages.
    Raises ValueError if param_str is not a JSON object, is nested too deeply, names a parameter
    twice or one that is not in the table, or gives an invalid value.
    """
    where = f"{layer}: param_str"
    given = _decoded(param_str, where) if param_str.strip() else {}
    if not isinstance(given, dict):
        raise ValueError(
            f'{where} must be a JSON object such as {{"k": 1}}, not {_printable(param_str)}'
        )
    for name, value in given.items():
        if name not in table:
            near = difflib.get_close_matches(name[:SHOWN], table, n=1, cutoff=0)
            raise ValueError(
                f'{where} has an unknown parameter "{_printable(name)}"; '
                + (
                    f'the nearest known one is "{near[0]}" (all: {", ".join(sorted(table))})'
                    if table
                    else "this layer has no parameters"
                )
            )
        # null would be indistinguishable from "not given", so it is never valid.
        if value is None or not table[name].valid(value):
            raise ValueError(
                f'{where}: "{name}" must be {table[name].description}, not {_json(value)}'
            )
    return {name: given.get(name, parameter.default) for name, parameter in table.items()}


def _decoded(param_str, where):
    def unique(pairs):
        counts = Counter(name for name, _ in pairs)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(
                    f'{where} gives "{_printable(name)}" {_times(count)}; keep one of them'
                )
        return dict(pairs)

    def of_bounded_length(convert):
        def converted(text):
            if len(text) > LONGEST_NUMBER:
                raise ValueError(
                    f"{where} has a number of {len(text)} characters, which begins with "
                    f"{text[:20]}; write at most {LONGEST_NUMBER}"
                )
            return convert(text)

        return converted

    try:
        return json.loads(
            param_str,
            object_pairs_hook=unique,
            parse_int=of_bounded_length(int),
            parse_float=of_bounded_length(float),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): {_printable(param_str)}") from None
    except RecursionError:
        raise ValueError(
            f"{where} has lists or objects nested too deeply; parameters are numbers, strings, "
            "truth values and lists of numbers"
        ) from None


def _times(count):
    return "twice" if count == 2 else f"{count} times"


def _json(value):
    try:
        return _printable(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return "lists or objects nested too deeply"


def _printable(text):
    """The text, cut to SHOWN characters, with control characters and lone surrogates escaped."""
    cut = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
