"""Number of random examples of a property test, which `make fuzz` multiplies."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """Return how many examples a test takes that takes `count` in `make test`."""
    return count * int(os.environ.get("FINCH_TEST_EXAMPLES") or 1)
