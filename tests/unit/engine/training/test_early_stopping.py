"""Early stopping by held-out loss."""

from __future__ import annotations

import pytest

from finch_hub.engine.training.early_stopping import EarlyStopping


def after(*losses: float, patience: int | None = 2, min_improvement: float = 0.0) -> EarlyStopping:
    state = EarlyStopping(patience=patience, min_improvement=min_improvement)
    for step, loss in enumerate(losses):
        state = state.add_evaluation(loss, step)
    return state


def test_patience_ignores_improvements_below_the_minimum() -> None:
    losses = [2.0, 1.5, 1.45, 1.41]
    assert [after(*losses[:number], min_improvement=0.1).is_due for number in range(5)] == [False] * 4 + [True]
    assert not after(2.0, 1.5, 1.45, 1.39, min_improvement=0.1).is_due
    assert not after(1.0, 2.0, patience=None).is_due


def test_patience_counts_an_improvement_that_took_several_evaluations() -> None:
    assert after(2.0, 1.95, 1.89, 1.84, 1.78, min_improvement=0.1, patience=2).waited == 0


@pytest.mark.parametrize("min_improvement", [0.0, 0.01, 0.05, 1.0])
def test_the_lowest_loss_is_the_best_whatever_counts_as_improvement(min_improvement: float) -> None:
    state = after(2.00, 1.97, 1.96, 1.955, patience=None, min_improvement=min_improvement)
    assert (state.best_loss, state.best_step) == (1.955, 3)


def test_a_state_of_an_earlier_version_goes_on() -> None:
    state = EarlyStopping.of({"patience": 2, "min_improvement": 0.1, "best_loss": 1.5, "best_step": 1, "waited": 1})
    assert state.add_evaluation(1.45, 2).is_due
    assert not state.add_evaluation(1.39, 2).is_due
