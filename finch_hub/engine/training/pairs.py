"""Training on examples in any form that users write."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training import loop
from finch_hub.engine.training.interruption import ShouldStop
from finch_hub.engine.training.resume_state import BatchTokens
from finch_hub.specs.events import Report
from finch_hub.specs.examples import Pairs, examples_of
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig


class LoopOptions(TypedDict, total=False):
    """Further keyword arguments of :func:`finch_hub.engine.training.loop.train`."""

    workdir: Path | None
    report: Report
    should_stop: ShouldStop
    resume: bool
    batch_tokens: BatchTokens | None


def train_on_pairs(
    base: Base,
    config: LoRAConfig,
    examples: Pairs,
    *,
    epochs: int | None,
    learning_rate: float | None,
    validation: Pairs | None,
    training: TrainingConfig | None,
    system: str | None,
    adapter: AttachableAdapter | None = None,
    **options: Unpack[LoopOptions],
) -> loop.Trained:
    """Train an adapter with `training`, in which `epochs` and `learning_rate` are replaced unless None.

    Raises:
        InvalidDataset: examples that cannot be used, all of them by their position.
        FinchError: the errors of :func:`finch_hub.engine.training.loop.train`.
    """
    changes = {"epochs": epochs, "learning_rate": learning_rate}
    return loop.train(
        base,
        config,
        (training or TrainingConfig()).evolve(**{name: value for name, value in changes.items() if value is not None}),
        examples_of(examples),
        None if validation is None else examples_of(validation),
        system=system,
        adapter=adapter,
        **options,
    )
