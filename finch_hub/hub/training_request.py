"""Keyword arguments that a training, a sweep and a preview of a training share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

from finch_hub.specs.examples import Rows
from finch_hub.specs.jobs import Requirements, TrainOptions
from finch_hub.specs.sweeps import SweepOptions

Method = TypeVar("Method", bound=Callable[..., object])


class TrainingSource(TypedDict, total=False):
    """What a training starts from. `Hub.train` describes each key."""

    base: str | Path | None
    revision: str | None
    start: str | None
    preset: str | None
    validation: str | Path | Rows | float | None
    system: str | None
    requirements: Requirements | None
    progress: Callable[[int], None] | None


class TrainRequest(TrainingSource, TrainOptions, total=False):
    """Keyword arguments of `Hub.train` and `Hub.preview_training`: what a training starts from, and settings."""


class SweepRequest(TrainingSource, SweepOptions, total=False):
    """Keyword arguments of `Hub.sweep`: those of a training, where a setting may have a list of values to try."""


def split_request(request: Mapping[str, Any]) -> tuple[TrainingSource, dict[str, Any]]:
    """Return what the training starts from, and the settings. A name that is unknown is among the settings."""
    names = TrainingSource.__annotations__.keys()
    source = {name: value for name, value in request.items() if name in names}
    return cast("TrainingSource", source), {name: value for name, value in request.items() if name not in names}


def list_source(method: Method) -> Method:
    """List the keys of `TrainingSource` in the signature of a method that has `**request`, for completion and help."""
    signature = inspect.signature(method)
    source = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint.__forward_arg__)
        for name, hint in TrainingSource.__annotations__.items()
    ]
    *listed, request = signature.parameters.values()
    cast("Any", method).__signature__ = signature.replace(parameters=[*listed, *source, request])
    return method
