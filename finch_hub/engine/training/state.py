"""What a run knows beside tensors: where it is, what it has measured, and how it divides its steps."""

from __future__ import annotations

from finch_hub.engine.training.stopping import Stopping
from finch_hub.specs.reports import TokenMetrics
from finch_hub.specs.value import Value

BatchTokens = tuple[tuple[int, int | None], ...]
"""Upper bounds of a micro-batch's tokens, each with the step from which it holds."""


class State(Value):
    """One moment of a run; replaced after every step, stored in checkpoints.

    Attributes:
        step: optimiser steps done.
        tokens: of the examples of these steps.
        seconds: spent in them.
        loss_sum: summed over their label tokens.
        label_tokens: number of these.
        smoothed_loss: of the last ten steps or so.
        first_loss: of the first step.
        stopping: what the evaluations say.
        before: held-out metrics before the first step.
        after: the best ones since.
        evaluated_step: the step after which it was evaluated last.
        batch_tokens: upper bounds of a micro-batch, each with the step from which it holds: memory may have run out.

    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    label_tokens: int = 0
    smoothed_loss: float | None = None
    first_loss: float | None = None
    stopping: Stopping = Stopping()
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    evaluated_step: int | None = None
    batch_tokens: BatchTokens = ()
