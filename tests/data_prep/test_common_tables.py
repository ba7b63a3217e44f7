"""data_prep/common: dataclasses as JSON, and text tables."""

from dataclasses import dataclass, field

import pytest

from data_prep.common import text_table
from data_prep.common.errors import UserError
from data_prep.common.typed import REST, from_json, to_json


@dataclass(frozen=True)
class Part:
    number: float
    word: str | None = None


@dataclass(frozen=True)
class Whole:
    count: int
    parts: tuple[Part, ...]
    named: dict[str, Part]
    flag: bool = False

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count is below 0")


@dataclass(frozen=True)
class Open:
    count: int
    others: dict = field(default_factory=dict, metadata=REST)


def test_keys_of_no_field():
    """Unknown keys go into the REST field, and are written beside the other fields."""
    value = {"count": 2, "a": [1], "others": "x"}
    read = from_json(Open, value, "it")
    assert read == Open(2, {"a": [1]}) and to_json(read) == {"count": 2, "a": [1]}
    assert to_json(Open(2)) == {"count": 2}


VALUE = {"count": 2, "parts": [{"number": 1}, {"number": 0.5, "word": "x"}], "named": {}}


def test_there_and_back():
    whole = from_json(Whole, VALUE, "file")
    assert whole == Whole(2, (Part(1.0), Part(0.5, "x")), {})
    assert to_json(whole) == VALUE | {"flag": False}
    assert from_json(Whole, to_json(whole), "file") == whole


@pytest.mark.parametrize(
    "change, says",
    [
        ({"count": True}, "count is not a whole number"),
        ({"count": 1.0}, "count is not a whole number"),
        ({"count": -1}, "count is below 0"),
        ({"flag": 1}, "flag is not true or false"),
        ({"parts": {}}, "parts is not a list"),
        ({"parts": [{"number": float("inf")}]}, r"parts\[0\].number is not a number"),
        ({"parts": [{"word": "x"}]}, r"parts\[0\].number is missing"),
        ({"named": {"a": {"number": 1, "word": 2}}}, r"named\['a'\].word is not a string"),
        ({"named": []}, "named is not an object"),
    ],
)
def test_what_does_not_fit_is_named(change, says):
    with pytest.raises(UserError, match=f"^file: {says}$"):
        from_json(Whole, VALUE | change, "file")


def test_aligned_columns():
    rows = [("name", "n", ""), ("日本", "12", "x"), ("e\u0301", "3", "")]
    assert text_table.aligned(rows, right={1}) == ["name   n", "日本  12  x", "e\u0301      3"]


def test_markdown():
    assert text_table.markdown([("a", "b|c"), ("1", "2")]) == [
        "| a | b\\|c |",
        "|---|---|",
        "| 1 | 2 |",
    ]
