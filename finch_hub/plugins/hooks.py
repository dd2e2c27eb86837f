"""The hooks that a plugin may implement; each is called once, when the catalog is built.

A plugin is any module or object with functions of these names marked by `hookimpl`, announced by an entry point in the
group ``finch_hub``. What is built in comes through the same hooks (`finch_hub.plugins.builtin`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Evaluator,
    ExportFormat,
    Listener,
    Preset,
    Resolver,
    Strategy,
)

PROJECT = "finch_hub"
"""Name of the entry-point group and of the pluggy project."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def finch_presets() -> Sequence[Preset]:
    """Return the presets that can be named when an adapter is trained, in any order."""


@hookspec
def finch_strategies() -> Sequence[Strategy]:
    """Return the strategies that can be named when adapters are composed, in any order."""


@hookspec
def finch_resolvers() -> Sequence[Resolver]:
    """Return the conflict resolvers that can be named when adapters are composed, in any order."""


@hookspec
def finch_dataset_formats() -> Sequence[DatasetFormat]:
    """Return the row formats of data sets, those to be recognized first at the front."""


@hookspec
def finch_base_sources() -> Sequence[BaseSource]:
    """Return the places that base models come from, those to be asked first at the front."""


@hookspec
def finch_export_formats() -> Sequence[ExportFormat]:
    """Return the formats that adapters can be exported to, in any order."""


@hookspec
def finch_evaluators() -> Sequence[Evaluator]:
    """Return the evaluators that adapters can be measured with, in any order."""


@hookspec
def finch_listeners() -> Sequence[Listener]:
    """Return the listeners to be told of every change of a job's state, those to be told first at the front."""
