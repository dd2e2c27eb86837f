"""When held-out loss says that training may end."""

from __future__ import annotations

from finch_hub.specs.value import Value


class Stopping(Value):
    """What is known of the evaluations so far; replaced by :meth:`after` each of them.

    Attributes:
        patience: evaluations without improvement after which to stop; None never stops.
        min_improvement: nats per token that count as improvement.
        best_loss: least held-out loss, None before the first evaluation.
        best_step: the step after which it was measured.
        waited: evaluations since the last improvement.

    """

    patience: int | None = None
    min_improvement: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    waited: int = 0

    def improves(self, loss: float) -> bool:
        """Tell whether this loss would be the new best one."""
        return self.best_loss is None or loss < self.best_loss - self.min_improvement

    def after(self, loss: float, step: int) -> Stopping:
        """Return the state after an evaluation."""
        if self.improves(loss):
            return self.evolve(best_loss=loss, best_step=step, waited=0)
        return self.evolve(waited=self.waited + 1)

    @property
    def due(self) -> bool:
        """Tell whether patience is used up."""
        return self.patience is not None and self.waited >= self.patience
