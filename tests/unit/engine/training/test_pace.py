"""Pace of a training: what the first step prepares does not count."""

from __future__ import annotations

from finch_hub.engine.training.pace import Pace


def test_remaining_time_follows_from_the_steps_after_the_first() -> None:
    pace = Pace()
    assert pace.estimate(10) is None
    pace.add(60.0)
    assert pace.estimate(9) is None
    pace.add(1.0)
    pace.add(3.0)
    assert pace.estimate(7) == 14.0
    assert pace.estimate(0) == 0.0
