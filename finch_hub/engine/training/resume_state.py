"""Everything that a resumed training restores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from finch_hub.engine.training.early_stopping import EarlyStopping
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.reports import TokenMetrics
from finch_hub.specs.value import Value

BatchTokens = tuple[tuple[int, int | None], ...]
"""Upper bounds of a micro-batch's tokens, each with the first step that it applies to."""


class TrainingProgress(Value):
    """Counts and measurements of a training, replaced after every step.

    Attributes:
        step: optimizer steps done.
        tokens: tokens of the examples in these steps.
        seconds: duration of these steps.
        loss_sum: sum of the losses of their label tokens.
        label_tokens: label tokens of these steps.
        smoothed_loss: average over about the last ten steps.
        first_loss: loss of the first step.
        stopping: state of early stopping.
        before: held-out metrics before the first step.
        divergence: divergence from the base on general prompts before the first step; see `Forgetting`.
        after: best held-out metrics since then.
        evaluated_step: step after which the latest evaluation ran.
        batch_tokens: upper bounds of a micro-batch, which fall when memory runs out.
        continued: changes of the environment at which a checkpoint was continued.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    label_tokens: int = 0
    smoothed_loss: float | None = None
    first_loss: float | None = None
    stopping: EarlyStopping = EarlyStopping()
    before: TokenMetrics | None = None
    divergence: float = 0.0
    after: TokenMetrics | None = None
    evaluated_step: int | None = None
    batch_tokens: BatchTokens = ()
    continued: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ResumeState:
    """Everything that a resumed training restores; a checkpoint stores it.

    The learning rate, the order of the examples and the dropout masks are not part of it: they are functions of the
    settings, the seed and the step.

    Attributes:
        progress: counts and measurements.
        optimizer: the adapter's parameters, their moments and step counts.
        best_parameters: parameters at the lowest held-out loss; empty before the first improvement.
        curve: losses so far.
    """

    progress: TrainingProgress
    optimizer: Mapping[str, Tensor]
    best_parameters: tuple[Tensor, ...] = ()
    curve: LossCurve = LossCurve()  # noqa: RUF009 - frozen
