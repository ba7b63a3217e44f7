"""A short, seeded run of fuzz.py; FUZZ (cases.py) makes it longer."""

import pytest
from cases import count
from fuzz import fuzz_batches, fuzz_parameters

CASES = count(600)


def test_param_strs(tmp_path):
    counts = fuzz_parameters(0, CASES, tmp_path)
    print(dict(counts))
    assert counts.total() == CASES and min(counts.values()) > CASES / 20 and len(counts) == 2


@pytest.mark.filterwarnings("error")
def test_batches(tmp_path):
    counts = fuzz_batches(0, CASES, tmp_path)
    print(dict(counts))
    assert min(counts.values()) > CASES / 20 and len(counts) == 3
