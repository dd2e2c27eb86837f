"""Time that a stopped process and a sleeping machine cannot hide from."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Return seconds since some fixed moment; they go on while the process is stopped or the machine asleep."""
    return time.clock_gettime(_CLOCK)
