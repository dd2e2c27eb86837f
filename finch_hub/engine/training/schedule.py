"""How the learning rate goes over the steps."""

from __future__ import annotations

import math

from finch_hub.specs.training import TrainingConfig


def factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Return what the peak learning rate is multiplied by in a step, 0 to 1.

    It rises linearly over the warm-up, so that step 0 has ``1 / warmup`` already; then it stays (``constant``), or
    falls to 0 after the last step as a line or as half a cosine.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: steps of the rise.
        schedule: ``constant``, ``linear`` or ``cosine``.

    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Return the steps of the warm-up: as given, or the share of all steps, rounded up."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * steps)
