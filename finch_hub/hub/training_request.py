"""Keyword arguments that a training, a sweep and a preview of a training share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from finch_hub.hub.examples import DataSource, Progress
from finch_hub.specs.jobs import Requirements, TrainOptions
from finch_hub.specs.sweeps import SweepOptions


class TrainingSource(TypedDict, total=False):
    """What a training starts from. `Hub.train` describes each key."""

    base: str | Path | None
    revision: str | None
    start: str | None
    preset: str | None
    validation: DataSource | float | None
    system: str | None
    requirements: Requirements | None
    progress: Progress | None


class TrainRequest(TrainingSource, TrainOptions, total=False):
    """Keyword arguments of `Hub.train` and `Hub.preview_training`: what a training starts from, and settings."""


class SweepRequest(TrainingSource, SweepOptions, total=False):
    """Keyword arguments of `Hub.sweep`: those of a training, where a setting may have a list of values to try."""


def split_request(request: Mapping[str, Any]) -> tuple[TrainingSource, dict[str, Any]]:
    """Return what the training starts from, and the settings. A name that is unknown is among the settings."""
    names = TrainingSource.__annotations__.keys()
    source = {name: value for name, value in request.items() if name in names}
    return cast("TrainingSource", source), {name: value for name, value in request.items() if name not in names}
