"""How many cases a fuzz test tries."""

import os

FACTOR = int(os.environ.get("FUZZ", "1"))  # `FUZZ=100` tries a hundred times as many


def count(default):
    """Number of cases: `default`, times the environment variable FUZZ."""
    return default * FACTOR
