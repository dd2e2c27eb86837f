"""Events that jobs report while they run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import pydantic

from finch_hub.progress import Advance
from finch_hub.specs.value import JsonObject, PositiveInt, Value, check_nesting


class NewEvent(Value):
    """An event that the registry has not yet numbered and dated.

    Types and their `data`:

    - ``message``: text for people; no data.
    - ``phase``: name.
    - ``progress``: step, steps, seconds_left; unit, of steps that are not those of a training; and of a training epoch,
      loss, learning_rate, grad_norm, tokens_per_second, memory_bytes.
    - ``metrics``: step, valid_loss and others.
    - ``state``: state, attempt.
    - ``report``: name and fields of a report of :mod:`finch_hub.specs.reports`.
    """

    type: Literal["message", "phase", "progress", "metrics", "state", "report"]
    level: Literal["info", "warn", "error"] = "info"
    message: str = ""
    data: JsonObject = pydantic.Field(default={})  # JSON: each type has its own fields, and plugins add theirs

    @pydantic.field_validator("data")
    @classmethod
    def _check_data(cls, data: JsonObject) -> JsonObject:
        check_nesting(data)
        return data

    @classmethod
    def phase(cls, name: str) -> NewEvent:
        """Return the event for the start of a phase."""
        return cls(type="phase", message=name, data={"name": name})

    @classmethod
    def advance(cls, advance: Advance) -> NewEvent:
        """Return the event that tells how far some work is."""
        data = {"unit": advance.work, "step": advance.done, "steps": advance.total}
        return cls(type="progress", data={**data, "seconds_left": advance.seconds_left})


class Event(NewEvent):
    """A stored event. `seq` counts from 1 within the job. Progress that was thinned leaves gaps."""

    job_id: str
    seq: PositiveInt
    at: datetime


Report = Callable[[NewEvent], None]
"""Receiver of the events of a running job."""


def silent(event: NewEvent) -> None:
    """Ignore an event."""
