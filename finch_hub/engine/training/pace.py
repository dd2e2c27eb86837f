"""Pace of a training in this process, from which the remaining time follows."""

from __future__ import annotations


class Pace:
    """Seconds of a step. The first step does not count, because it prepares memory and threads."""

    def __init__(self) -> None:
        self._steps, self._seconds = -1, 0.0

    def add(self, seconds: float) -> None:
        """Count a step."""
        self._steps += 1
        if self._steps:
            self._seconds += seconds

    def estimate(self, steps: int) -> float | None:
        """Return the seconds that this many steps take, None before the second step."""
        return self._seconds / self._steps * steps if self._steps > 0 else None
