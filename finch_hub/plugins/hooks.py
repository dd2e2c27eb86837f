"""Hooks that a plugin can implement; the catalog calls each hook once.

A plugin is a module or object with functions of these names that are marked by `hookimpl`. An entry point in the group
``finch_hub`` announces it. The built-in plugin uses the same hooks (`finch_hub.plugins.builtin`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from finch_hub.plugins import descriptors

PROJECT = "finch_hub"
"""Name of the entry-point group and of the pluggy project."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def finch_presets() -> Sequence[descriptors.Preset]:
    """Return presets for training, in any order."""


@hookspec
def finch_strategies() -> Sequence[descriptors.Strategy]:
    """Return composition strategies, in any order."""


@hookspec
def finch_resolvers() -> Sequence[descriptors.Resolver]:
    """Return conflict resolvers for compositions, in any order."""


@hookspec
def finch_dataset_formats() -> Sequence[descriptors.DatasetFormat]:
    """Return row formats of data sets, in the order in which they are matched."""


@hookspec
def finch_base_sources() -> Sequence[descriptors.BaseSource]:
    """Return sources of base models, in the order in which they are matched."""


@hookspec
def finch_export_formats() -> Sequence[descriptors.ExportFormat]:
    """Return export formats for adapters, in any order."""


@hookspec
def finch_evaluators() -> Sequence[descriptors.Evaluator]:
    """Return evaluators of adapters, in any order."""


@hookspec
def finch_listeners() -> Sequence[descriptors.Listener]:
    """Return listeners for state changes of jobs, in any order."""
