"""How long a test waits for something that must come.

Only a test that fails waits that long: a slow machine is slow, not red. pytest's own limit for a
test (pyproject.toml) is longer.
"""

SECONDS = 600
