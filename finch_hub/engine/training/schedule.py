"""How many steps a training has, and how the learning rate goes over them; torch-free, so that submitting can check."""

from __future__ import annotations

import math

from finch_hub import errors
from finch_hub.specs.training import TrainingConfig


def steps_of(config: TrainingConfig, examples: int) -> tuple[int, int]:
    """Return the optimiser's steps of one epoch, and of the whole training."""
    epoch = math.ceil(examples / (config.batch_size * config.gradient_accumulation))
    return epoch, min(config.epochs * epoch, config.max_steps or config.epochs * epoch)


def check(config: TrainingConfig, *, examples: int, held_out: int) -> list[errors.Problem]:
    """Return what in the settings cannot work with so many examples to learn and to measure on."""
    problems = []
    _, steps = steps_of(config, examples)
    warmup = warmup_steps(config, steps)
    if not held_out and config.patience is not None:
        what = "early stopping needs validation data, and there is none"
        fix = "give a validation file or a share of the data as validation, or no patience"
        problems.append(errors.Problem(where="patience", what=what, fix=fix))
    if warmup > steps or warmup == steps > 1:
        what = f"the warm-up takes {warmup} steps, the whole training {steps}"
        problems.append(errors.Problem(where="warmup_steps", what=what, fix="shorten it or train longer"))
    return problems


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
