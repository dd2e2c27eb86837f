"""Early stopping by held-out loss."""

from __future__ import annotations

from finch_hub.engine.training.early_stopping import EarlyStopping


def test_early_stopping_ignores_improvements_below_the_minimum() -> None:
    state = EarlyStopping(patience=2, min_improvement=0.1)
    for step, (loss, due) in enumerate([(2.0, False), (1.5, False), (1.45, False), (1.41, True)]):
        state = state.add_evaluation(loss, step)
        assert state.is_due is due
    assert (state.best_loss, state.best_step) == (1.5, 1)
    assert not state.add_evaluation(1.39, 4).is_due
    assert not EarlyStopping().add_evaluation(1.0, 0).add_evaluation(2.0, 1).is_due
