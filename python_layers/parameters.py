"""The param_str of a Python layer: a JSON object, checked against the layer's own table.

A layer states its parameters as a dictionary of `Parameter`s; `parse` returns a value for each one.
Everything a user can get wrong in a prototxt ends in one ValueError that names the parameter.
"""

import difflib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST = 2**31 - 1  # for whole numbers: what Caffe's own parameters can hold


@dataclass(frozen=True)
class Parameter:
    """One entry of a layer's table.

    default:     the value when param_str does not name the parameter.
    description: what a valid value is, to be read after "must be".
    valid:       tells whether a decoded JSON value is one.
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


def positive_integer(default):
    return Parameter(
        default, f"a whole number from 1 to {MOST}", lambda v: is_integer(v) and 1 <= v <= MOST
    )


def non_negative_number(default):
    return Parameter(default, "a number of at least 0", lambda v: is_number(v) and v >= 0)


def non_negative_numbers(default):
    return Parameter(
        default,
        "a list of numbers of at least 0",
        lambda v: isinstance(v, list) and len(v) > 0 and all(is_number(x) and x >= 0 for x in v),
    )


def parse(param_str, table, layer):
    """The layer's parameters as a dictionary with one value for every name in `table`.

    param_str: the prototxt's string; empty means all defaults.
    table:     {name: Parameter}.
    layer:     the layer's class name, for messages.
    Raises ValueError: not a JSON object, a name given twice, an unknown name, an invalid value.
    """
    where = f"{layer}: param_str"

    def unique(pairs):
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'{where} gives "{name}" twice; keep one')
        return dict(pairs)

    try:
        given = json.loads(param_str, object_pairs_hook=unique) if param_str.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): {param_str!r}") from None
    if not isinstance(given, dict):
        raise ValueError(f'{where} must be a JSON object such as {{"k": 1}}, not {param_str!r}')
    for name, value in given.items():
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1, cutoff=0)
            raise ValueError(
                f'{where} has an unknown parameter "{name}"; the nearest known one is '
                f'"{near[0]}" (all: {", ".join(sorted(table))})'
            )
        # null would be indistinguishable from "not given", so it is never valid.
        if value is None or not table[name].valid(value):
            raise ValueError(
                f'{where}: "{name}" must be {table[name].description}, not {json.dumps(value)}'
            )
    return {name: given.get(name, parameter.default) for name, parameter in table.items()}
