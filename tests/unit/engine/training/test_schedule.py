"""Learning rate over the steps."""

from __future__ import annotations

import pytest

from finch_hub.engine.training.schedule import count_warmup_steps, learning_rate_factor
from finch_hub.specs.training import TrainingConfig


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_over_the_warm_up_and_stay_between_0_and_1(schedule: str) -> None:
    rates = [learning_rate_factor(step, steps=20, warmup=4, schedule=schedule) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    middle = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}[schedule]
    assert rates[12] == pytest.approx(middle)
    end = {"constant": 1.0, "linear": 1 / 16, "cosine": 0.5 * (1 - 0.98078528)}[schedule]
    assert rates[-1] == pytest.approx(end, rel=1e-4)


def test_warm_up_steps_are_as_given_or_a_share_rounded_up() -> None:
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.05), 30) == 2
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.5, warmup_steps=3), 30) == 3
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.0), 30) == 0
