"""LoRA adapter with its own training: the class that users create, load and train."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.data import reading as data_reading
from finch_hub.engine.training import loop
from finch_hub.progress import open_view
from finch_hub.specs.events import Report
from finch_hub.specs.examples import Example, Rows
from finch_hub.specs.former_names import accept_former_names
from finch_hub.specs.reading import LIMITS, ReadingConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig


class LoRAAdapter(AttachableAdapter):
    """LoRA adapter that can be trained, enabled, disabled, saved and loaded.

    The arguments are those of :class:`~finch_hub.engine.adapters.attachable_adapter.AttachableAdapter`.
    """

    @accept_former_names(lr="learning_rate")
    def train(
        self,
        examples: str | Path | Rows,
        epochs: int | None = None,
        learning_rate: float | None = None,
        *,
        validation: str | Path | Rows | None = None,
        training: TrainingConfig | None = None,
        system: str | None = None,
        reading: ReadingConfig | None = None,
        report: Report | None = None,
    ) -> TrainingReport:
        """Train the adapter further, and leave it enabled on its base.

        Args:
            examples: rows or files, as :func:`finch_hub.engine.read_examples` takes them.
            epochs: passes over the examples; None takes the value of `training`.
            learning_rate: peak learning rate; None takes the value of `training`.
            validation: held-out examples; None splits off the share that `training` gives.
            training: all other settings.
            system: system prompt of the examples that have none.
            reading: how rows are read; None recognizes their columns.
            report: receiver of events; None shows a bar on a terminal and in a notebook, and nothing elsewhere.

        Raises:
            InvalidSpec: the adapter has no base.
            InvalidDataset: too many rows cannot be used; contains all of them by their position.
            TrainingFailed: training started and could not continue.
        """
        base = self.require_base("train")
        training = replace_settings(training, reading, epochs=epochs, learning_rate=learning_rate)
        rows = read_rows(examples, reading, training)
        held_out = None if validation is None else read_rows(validation, reading, training, checks_ignored=False)
        with open_report(report) as receive:
            return loop.train(
                base, self.config, training, rows, held_out, system=system, adapter=self, report=receive
            ).report


def open_report(report: Report | None, *, shows: bool | None = None) -> AbstractContextManager[Report]:
    """Return the receiver of events, or what shows them to the user of this process; see `progress.open_view`."""
    return open_view(shows) if report is None else nullcontext(report)


def read_rows(
    source: str | Path | Rows, reading: ReadingConfig | None, training: TrainingConfig, *, checks_ignored: bool = True
) -> tuple[Example, ...]:
    """Return the examples of rows or files. What was left out or not used is a `DataWarning`."""
    limits = {name: getattr(training, name) for name in LIMITS}
    data = data_reading.read_data(source, (reading or ReadingConfig()).evolve(**limits), checks_ignored=checks_ignored)
    data_reading.warn(data)
    return data.examples


def replace_settings(
    training: TrainingConfig | None, reading: ReadingConfig | None, **changes: float | None
) -> TrainingConfig:
    """Return the configuration, or the default one, with the changes that are not None.

    The limits that `reading` sets hold for the training, too.
    """
    given = {name: new for name, new in changes.items() if new is not None}
    if reading is not None:
        given |= {name: getattr(reading, name) for name in LIMITS if name in reading.model_fields_set}
    return (training or TrainingConfig()).evolve(**given)
