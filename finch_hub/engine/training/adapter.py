"""LoRA adapter with its own training: the class that users create, load and train."""

from __future__ import annotations

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.training import loop
from finch_hub.specs.examples import Pairs, examples_of
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig


class LoRAAdapter(AttachableAdapter):
    """LoRA adapter that can be trained, enabled, disabled, saved and loaded.

    The arguments are those of :class:`~finch_hub.engine.adapters.attachable_adapter.AttachableAdapter`.
    """

    def train(
        self,
        examples: Pairs,
        epochs: int | None = None,
        lr: float | None = None,
        *,
        validation: Pairs | None = None,
        training: TrainingConfig | None = None,
        system: str | None = None,
    ) -> TrainingReport:
        """Train the adapter further, and leave it enabled on its base.

        Args:
            examples: (prompt, completion) pairs, mappings with these keys or with `messages`, or examples.
            epochs: passes over the examples; None takes the value of `training`.
            lr: peak learning rate; None takes the value of `training`.
            validation: held-out examples; None splits off the share that `training` gives.
            training: all other settings.
            system: system prompt of the examples that have none.

        Raises:
            InvalidSpec: the adapter has no base.
            InvalidDataset: examples that cannot be used, all of them by their position.
            TrainingFailed: training started and could not continue.
        """
        return loop.train(
            self.require_base("train"),
            self.config,
            replace_settings(training, epochs=epochs, learning_rate=lr),
            examples_of(examples),
            None if validation is None else examples_of(validation),
            system=system,
            adapter=self,
        ).report


def replace_settings(training: TrainingConfig | None, **changes: float | None) -> TrainingConfig:
    """Return the configuration, or the default one, with the changes that are not None."""
    return (training or TrainingConfig()).evolve(**{name: new for name, new in changes.items() if new is not None})
