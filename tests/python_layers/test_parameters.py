"""What a user can get wrong in a layer's param_str, and the sentence that says so."""

import pytest

from python_layers.parameters import boolean, choice, margins, parse, whole_number

TABLE = {
    "k": whole_number(1),
    "margins": margins(None),
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
        ('{"margins": 1}', '"margins" must be a list of numbers from 0 to 1e.09, not 1'),
        ('{"k": 2147483648}', '"k" must be a whole number from 1'),
        ('{"margins": [1' + 400 * "0" + "]}", '"margins" must be a list of numbers'),
        ('{"margins": []}', '"margins" must be a list'),
        ('{"margins": [1, NaN]}', '"margins" must be a list of numbers'),
        ('{"margins": [-1]}', '"margins" must be a list of numbers'),
        ('{"mode": "papers"}', '"mode" must be "paper" or "exact", not "papers"'),
        ('{"mode": []}', '"mode" must be "paper" or "exact"'),
        ('{"normalize": 1}', '"normalize" must be true or false, not 1'),
        ('{"margins": [1e30]}', '"margins" must be a list of numbers from 0 to 1e'),
        ('{"margins": [Infinity]}', '"margins" must be a list of numbers'),
        ('{"margins": [1e999]}', '"margins" must be a list of numbers'),
        ('{"k": NaN}', '"k" must be a whole number from 1 to 2147483647, not NaN'),
        ('{"k": 1' + 5000 * "0" + "}", "has a number of 5001 characters, which begins with 1000"),
        ('{"k": 0.' + 5000 * "1" + "}", "has a number of 5002 characters"),
        ('{"k": ' + 10000 * "[" + 10000 * "]" + "}", "nested too deeply"),
        (10000 * '{"k":', "nested too deeply"),
        ('{"k": ' + 900 * "[" + 900 * "]" + "}", '"k" must be a whole number'),
        ('{"k": 1, "k": 1, "k": 2}', 'gives "k" 3 times; keep one of them'),
        ('{"k": {"a": 1, "a": 2}}', 'gives "a" twice'),
        (r'{"\ud800": 1}', r'unknown parameter "\\ud800"; the nearest'),
        (r'{"mode": "\u0000\n"}', r'not "\\u0000\\n"'),
        ("\ufeff{}", "is not JSON"),
    ],
)
def test_mistakes_are_named(param_str, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        parse(param_str, TABLE, "L")


@pytest.mark.parametrize(
    "param_str", ['{"%s": 1}', '{"mode": "%s"}', '"%s"', "%s", '{"margins": [%s]}']
)
def test_messages_are_short(param_str):
    """Long names are cut, and many names do not take quadratic time."""
    for text in ("k" * 10**6, '", "'.join(map(str, range(10**5)))):
        with pytest.raises(ValueError) as caught:
            parse(param_str % text, TABLE, "L")
        assert len(str(caught.value)) < 500 and str(caught.value).startswith("L: param_str")
