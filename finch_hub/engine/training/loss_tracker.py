"""Losses of the latest steps, which are read from the device as rarely as possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from finch_hub import errors
from finch_hub.engine.training import checkpoint
from finch_hub.engine.training.loss_curve import CurveRecorder
from finch_hub.engine.training.resume_state import TrainingProgress

_SMOOTHING = 0.9  # of the reported loss: an average over about the last ten steps


class _StepLoss(NamedTuple):
    """Loss of a step, still on the device."""

    step: int
    loss: Tensor
    gradient_norm: Tensor
    label_tokens: int
    learning_rate: float


class LossTracker:
    """Losses of the latest steps, kept on the device until they are needed.

    Args:
        curve: gets each loss that is read.
    """

    def __init__(self, *, vocabulary: int, workdir: Path | None, curve: CurveRecorder) -> None:
        self.gradient_norm = 0.0  # of the last step whose loss was read
        self._curve = curve
        self._vocabulary, self._workdir = vocabulary, workdir
        self._pending: list[_StepLoss] = []

    def add(self, step: int, loss: Tensor, gradient_norm: Tensor, label_tokens: int, learning_rate: float) -> None:
        """Keep the loss of a finished step."""
        self._pending.append(_StepLoss(step, loss, gradient_norm, label_tokens, learning_rate))

    def read(self, progress: TrainingProgress) -> TrainingProgress:
        """Return the progress with the losses of all kept steps; this waits for the device.

        Raises:
            Diverged: a loss or gradient is not finite, or the model is worse than guessing.
        """
        pending, self._pending = self._pending, []
        for step in pending:
            loss, self.gradient_norm = float(step.loss), float(step.gradient_norm)
            if not (math.isfinite(loss) and math.isfinite(self.gradient_norm)):
                raise self.diverged(step.step, "the loss or its gradient is not finite")
            smoothed = progress.smoothed_loss
            smoothed = loss if smoothed is None else _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            first = loss if progress.first_loss is None else progress.first_loss
            # Equal probabilities for all tokens have the loss ln V. A model that began below it has unlearned.
            if smoothed > max(math.log(self._vocabulary), first) + 1.0:
                raise self.diverged(step.step, f"the loss rose to {smoothed:.2f}, which is worse than guessing")
            self._curve.add(step.step, smoothed, step.learning_rate)
            progress = progress.evolve(
                label_tokens=progress.label_tokens + step.label_tokens,
                loss_sum=progress.loss_sum + loss * step.label_tokens,
                smoothed_loss=smoothed,
                first_loss=first,
            )
        return progress

    def diverged(self, step: int, reason: str) -> errors.Diverged:
        """Return the error of a training that diverged, with its last checkpoint."""
        checkpoints = checkpoint.list_checkpoints(self._workdir)
        last = f"the last good checkpoint is {checkpoints[0]}" if checkpoints else "there is no checkpoint"
        return errors.Diverged(f"training diverged at step {step}: {reason} (lower the learning rate; {last})")
