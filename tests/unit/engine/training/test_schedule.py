"""Number of steps, and the learning rate over them."""

from __future__ import annotations

from typing import Any

import pytest

from finch_hub.engine.training.schedule import count_steps, count_warmup_steps, find_problems, learning_rate_factor
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


def test_rate_stays_zero_after_the_last_step() -> None:
    for schedule in ("linear", "cosine"):
        assert learning_rate_factor(25, steps=20, warmup=4, schedule=schedule) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("examples", "changes", "steps"),
    [
        (12, {}, (3, 6)),
        (13, {}, (4, 8)),
        (13, {"gradient_accumulation": 2}, (2, 4)),
        (13, {"max_steps": 5}, (4, 5)),
        (13, {"max_steps": 50}, (4, 8)),
        (1, {}, (1, 2)),
    ],
)
def test_steps_are_those_of_all_epochs_or_the_maximum(
    examples: int, changes: dict[str, Any], steps: tuple[int, int]
) -> None:
    assert count_steps(TrainingConfig(epochs=2, batch_size=4).evolve(**changes), examples) == steps


@pytest.mark.parametrize(
    ("warmup", "max_steps", "is_refused"), [(4, 5, False), (5, 5, True), (6, 5, True), (1, 1, False), (2, 1, True)]
)
def test_warm_up_that_leaves_no_step_at_the_full_rate_is_refused(warmup: int, max_steps: int, is_refused: bool) -> None:
    """A training of one step has that step at the full rate."""
    config = TrainingConfig(epochs=2, batch_size=4, warmup_steps=warmup, max_steps=max_steps)
    problems = find_problems(config, examples=40, held_out=1)
    assert [problem.where for problem in problems] == ["warmup_steps"] * is_refused


@pytest.mark.parametrize(("held_out", "patience", "is_refused"), [(0, 1, True), (1, 1, False), (0, None, False)])
def test_early_stopping_needs_validation_data(held_out: int, patience: int | None, is_refused: bool) -> None:
    problems = find_problems(TrainingConfig(patience=patience), examples=40, held_out=held_out)
    assert [problem.where for problem in problems] == ["patience"] * is_refused


def test_warm_up_steps_are_as_given_or_a_share_rounded_up() -> None:
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.05), 30) == 2
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.5, warmup_steps=3), 30) == 3
    assert count_warmup_steps(TrainingConfig(warmup_ratio=0.0), 30) == 0
