"""A clock that goes on while the process is stopped or the machine sleeps."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Return seconds since a fixed moment, including time in which this process did not run."""
    return time.clock_gettime(_CLOCK)
