"""How much the tests that draw at random do: EXAMPLES=10 tests/run does ten times as much as tests/run alone."""

import os

FACTOR = float(os.environ.get("EXAMPLES", "1"))


def times(count: int) -> int:
    """Return the number of examples, rounds or files for a test that makes `count` of them by default."""
    return max(1, round(count * FACTOR))
