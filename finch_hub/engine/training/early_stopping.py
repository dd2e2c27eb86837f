"""Early stopping by held-out loss."""

from __future__ import annotations

from finch_hub.specs.value import Value


class EarlyStopping(Value):
    """Best evaluation so far, and the evaluations without improvement.

    The best parameters are those of the lowest loss. Patience has its own rule: the loss must fall by
    `min_improvement` below the last one that did, in one evaluation or in several.

    Attributes:
        patience: evaluations without improvement after which training stops; None never stops.
        min_improvement: nats per token that count as improvement.
        best_loss: lowest held-out loss, None before the first evaluation.
        best_step: step after which it was measured.
        reference_loss: last loss that counted as improvement.
        waited: evaluations since then.
        evaluations: number of evaluations, of which the best one was chosen.
    """

    patience: int | None = None
    min_improvement: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    reference_loss: float | None = None
    waited: int = 0
    evaluations: int = 0

    @property
    def is_due(self) -> bool:
        """Whether patience is used up."""
        return self.patience is not None and self.waited >= self.patience

    def is_best(self, loss: float) -> bool:
        """Return whether this loss would be the lowest one."""
        return self.best_loss is None or loss < self.best_loss

    def add_evaluation(self, loss: float, step: int) -> EarlyStopping:
        """Return the state after an evaluation."""
        best = self.evolve(best_loss=loss, best_step=step) if self.is_best(loss) else self
        best = best.evolve(evaluations=self.evaluations + 1)
        reference = self.best_loss if self.reference_loss is None else self.reference_loss
        if reference is None or loss < reference - self.min_improvement:
            return best.evolve(reference_loss=loss, waited=0)
        return best.evolve(reference_loss=reference, waited=self.waited + 1)
