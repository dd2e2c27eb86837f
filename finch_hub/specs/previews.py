"""What a training would learn, shown before it starts."""

from __future__ import annotations

from typing import Literal

from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import DataReport, ReadingReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value


class PreviewPart(Value):
    """A part of a row: read as a prompt, learned, or dropped so that the model does not see it."""

    kind: Literal["prompt", "learned", "dropped"]
    text: str


class PreviewRow(Value):
    """A row as the model sees it.

    Attributes:
        number: number of the row among those that could be read, from 1.
        parts: its text in order, with the special tokens.
        tokens: number of tokens that the model sees.
        learned_tokens: number of those among them that it learns.
        dropped_tokens: number of tokens that were cut to fit the maximum length.
        lost: texts of the row that the chat template leaves out.
        changes: what the chat template drops or changes, in words.
        problem: why the row cannot be used; None if it can.
    """

    number: int
    parts: tuple[PreviewPart, ...] = ()
    tokens: int = 0
    learned_tokens: int = 0
    dropped_tokens: int = 0
    lost: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    problem: str | None = None


class DataPreview(Value):
    """The first rows of a data set as a base sees them.

    Attributes:
        read: how all rows were read.
        max_length: number of tokens to which rows are cut.
    """

    base: str
    max_length: int
    read: ReadingReport
    rows: tuple[PreviewRow, ...]


class TrainingPreview(Value):
    """What a training would do. Nothing of it is stored.

    Attributes:
        data: report of the examples, with the number of steps.
        rows: the first rows as the base sees them.
        memory_bytes: estimated memory of the device, None if the base does not tell its shape.
        seconds: estimated duration at the speed of earlier trainings of the base, None if there are none.
    """

    adapter: str
    base: str
    lora: LoRAConfig
    training: TrainingConfig
    read: ReadingReport | None
    data: DataReport
    rows: tuple[PreviewRow, ...]
    memory_bytes: int | None = None
    seconds: float | None = None
