"""The amount of random input in the tests: with EXAMPLES=10 tests/run does ten times as much as by default."""

import os

FACTOR = float(os.environ.get("EXAMPLES", "1"))


def times(count: int) -> int:
    """Return the number of examples, rounds or files for a test whose default is `count`."""
    return max(1, round(count * FACTOR))
