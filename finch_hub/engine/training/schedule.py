"""Number of steps of a training, and its learning rate over them; torch-free, so that a submission can check it."""

from __future__ import annotations

import math

from finch_hub import errors
from finch_hub.specs.training import TrainingConfig


def count_steps(config: TrainingConfig, examples: int) -> tuple[int, int]:
    """Return the optimizer steps of one epoch, and of the whole training."""
    epoch = math.ceil(examples / (config.batch_size * config.gradient_accumulation))
    return epoch, min(config.epochs * epoch, config.max_steps or config.epochs * epoch)


def count_warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Return the steps of the warm-up: as given, or the share of all steps, rounded up."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * steps)


def find_problems(config: TrainingConfig, *, examples: int, held_out: int) -> list[errors.Problem]:
    """Return the settings that cannot work with this number of training and validation examples."""
    problems = []
    _, steps = count_steps(config, examples)
    warmup = count_warmup_steps(config, steps)
    if not held_out and config.patience is not None:
        what = "early stopping needs validation data, and there is none"
        fix = "give a validation file or a validation share, or leave out patience"
        problems.append(errors.Problem(where="patience", what=what, fix=fix))
    if warmup > steps or warmup == steps > 1:
        what = f"the warm-up takes {warmup} steps, but the whole training takes {steps}"
        problems.append(errors.Problem(where="warmup_steps", what=what, fix="shorten it or train longer"))
    return problems


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Return the factor of the peak learning rate in a step, 0 to 1.

    It rises linearly over the warm-up: step 0 has ``1 / warmup``. Then it stays (``constant``), or falls to 0 after
    the last step, linearly (``linear``) or as half a cosine (``cosine``).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
