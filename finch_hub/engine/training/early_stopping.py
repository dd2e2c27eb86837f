"""Early stopping by held-out loss."""

from __future__ import annotations

from finch_hub.specs.value import Value


class EarlyStopping(Value):
    """Best evaluation so far, and the evaluations since then.

    Attributes:
        patience: evaluations without improvement after which training stops; None never stops.
        min_improvement: nats per token that count as improvement.
        best_loss: lowest held-out loss, None before the first evaluation.
        best_step: step after which it was measured.
        waited: evaluations since the last improvement.
    """

    patience: int | None = None
    min_improvement: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    waited: int = 0

    @property
    def is_due(self) -> bool:
        """Whether patience is used up."""
        return self.patience is not None and self.waited >= self.patience

    def is_improvement(self, loss: float) -> bool:
        """Return whether this loss would be the new best one."""
        return self.best_loss is None or loss < self.best_loss - self.min_improvement

    def add_evaluation(self, loss: float, step: int) -> EarlyStopping:
        """Return the state after an evaluation."""
        if self.is_improvement(loss):
            return self.evolve(best_loss=loss, best_step=step, waited=0)
        return self.evolve(waited=self.waited + 1)
