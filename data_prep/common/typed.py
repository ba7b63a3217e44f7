"""Converts frozen dataclasses to and from JSON, and checks every type when reading."""

import dataclasses
import math
import types
import typing

from data_prep.common.errors import UserError

REST = {"rest": True}  # metadata of a field of type dict that holds the keys of no other field
NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
}


def from_json(kind, value, what):
    """Decoded JSON as an instance of the dataclass `kind`.

    Fields are str, int, float (finite), bool, dict, tuple[X, ...], dict[str, X], X | None, or
    dataclasses of these; __post_init__ may reject values with a ValueError. Unknown keys go into
    the field with the metadata REST, or are ignored. Raises UserError, beginning with `what`, which
    names the invalid entry.
    """
    try:
        return _read(kind, value, "")
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def to_json(instance):
    """A dataclass as dicts, lists and plain values for JSON; fields that are None are omitted."""
    if dataclasses.is_dataclass(instance):
        fields = {}
        for field in dataclasses.fields(instance):
            value = getattr(instance, field.name)
            fields |= value if _is_rest(field) else {field.name: value}
        return {name: to_json(value) for name, value in fields.items() if value is not None}
    if isinstance(instance, tuple):
        return [to_json(value) for value in instance]
    if isinstance(instance, dict):
        return {key: to_json(value) for key, value in instance.items()}
    return instance


def _read(kind, value, place):
    if isinstance(kind, types.UnionType):
        kind = next(part for part in kind.__args__ if part is not type(None))
        return None if value is None else _read(kind, value, place)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, place)
    if typing.get_origin(kind) is tuple:
        _demand(isinstance(value, list), "a list", place)
        (part, _) = typing.get_args(kind)
        return tuple(_read(part, one, f"{place}[{i}]") for i, one in enumerate(value))
    if typing.get_origin(kind) is dict:
        _demand(isinstance(value, dict), "an object", place)
        part = typing.get_args(kind)[1]
        return {key: _read(part, one, f"{place}[{key!r}]") for key, one in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    _demand(type(value) is kind and (kind is not float or math.isfinite(value)), NAMES[kind], place)
    return value


def _read_fields(kind, value, place):
    _demand(isinstance(value, dict), "an object", place)
    hints, found = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        where = f"{place}.{field.name}".lstrip(".")
        if _is_rest(field):
            known = {other.name for other in dataclasses.fields(kind)}
            found[field.name] = {key: one for key, one in value.items() if key not in known}
        elif field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], where)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} is missing")
    try:
        return kind(**found)
    except ValueError as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from None


def _is_rest(field):
    return REST.items() <= field.metadata.items()


def _demand(fits, wanted, place):
    if not fits:
        raise ValueError(f"{place or 'the value'} is not {wanted}")
