"""What a user can get wrong in a layer's param_str, and the sentence that says so."""

import pytest

from python_layers.parameters import boolean, choice, non_negative_numbers, parse, positive_integer

TABLE = {
    "k": positive_integer(1),
    "margins": non_negative_numbers(None),
    "mode": choice("paper", "paper", "exact"),
    "normalize": boolean(False),
}


def test_defaults_and_given_values():
    assert parse("", TABLE, "L") == {"k": 1, "margins": None, "mode": "paper", "normalize": False}
    given = '{"k": 3, "margins": [1, 0.5], "mode": "exact", "normalize": true}'
    assert parse(given, TABLE, "L") == {
        "k": 3,
        "margins": [1, 0.5],
        "mode": "exact",
        "normalize": True,
    }


@pytest.mark.parametrize(
    "param_str, message",
    [
        ("{'k': 1}", "L: param_str is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"margin": [1]}', 'unknown parameter "margin"; the nearest known one is "margins"'),
        ('{"k": 1, "k": 2}', 'gives "k" twice'),
        ('{"k": 0}', '"k" must be a whole number from 1 to 2147483647, not 0'),
        ('{"k": 1.5}', '"k" must be a whole number from 1 to 2147483647, not 1.5'),
        ('{"k": true}', '"k" must be a whole number from 1 to 2147483647, not true'),
        ('{"k": null}', '"k" must be a whole number from 1 to 2147483647, not null'),
        ('{"margins": 1}', '"margins" must be a list of numbers of at least 0, not 1'),
        ('{"k": 2147483648}', '"k" must be a whole number from 1'),
        ('{"margins": [1' + 400 * "0" + "]}", '"margins" must be a list of numbers'),
        ('{"margins": []}', '"margins" must be a list'),
        ('{"margins": [1, NaN]}', '"margins" must be a list of numbers'),
        ('{"margins": [-1]}', '"margins" must be a list of numbers'),
        ('{"mode": "papers"}', '"mode" must be "paper" or "exact", not "papers"'),
        ('{"mode": []}', '"mode" must be "paper" or "exact"'),
        ('{"normalize": 1}', '"normalize" must be true or false, not 1'),
    ],
)
def test_mistakes_are_named(param_str, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        parse(param_str, TABLE, "L")
