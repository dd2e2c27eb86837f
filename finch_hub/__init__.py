"""Finch Hub: train, version, compose, merge and serve LoRA adapters, with measured evidence.

Names are imported on first use, so ``import finch_hub`` costs almost nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub import progress as _progress
from finch_hub.texts import summaries as _summaries

if sys.platform == "win32":
    raise ImportError(
        "Finch Hub does not run on Windows: it needs POSIX signals and unix sockets (use Linux, macOS or WSL 2)"
    )

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.engine.training.adapter import LoRAAdapter
    from finch_hub.hub.facade import Hub
    from finch_hub.hub.jobs import JobHandle
    from finch_hub.hub.sweeping import SweepHandle
    from finch_hub.hub.versions import Version
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.settings import Settings
    from finch_hub.specs.backups import BackupReport, RestoreReport
    from finch_hub.specs.bundles import BundleReport, UnbundleReport
    from finch_hub.specs.events import Event, NewEvent
    from finch_hub.specs.examples import Example, Message
    from finch_hub.specs.generation import GenerationConfig
    from finch_hub.specs.jobs import BaseModelSource, Job, JobState, Requirements
    from finch_hub.specs.lora import LoRAConfig
    from finch_hub.specs.previews import DataPreview, TrainingPreview
    from finch_hub.specs.reading import ReadingConfig
    from finch_hub.specs.reports import (
        CompositionReport,
        ConflictReport,
        EvaluationReport,
        ExportReport,
        MergeReport,
        QuantizationReport,
        ReproductionReport,
        TrainingReport,
    )
    from finch_hub.specs.sweeps import SweepReport
    from finch_hub.specs.training import TrainingConfig
    from finch_hub.specs.value import Value

__all__ = [
    "AdapterVersion",
    "BackupReport",
    "BaseModelSource",
    "BundleReport",
    "CompositionReport",
    "ConflictReport",
    "DataPreview",
    "EvaluationReport",
    "Event",
    "Example",
    "ExportReport",
    "GenerationConfig",
    "GeneratorModel",
    "Hub",
    "Job",
    "JobHandle",
    "JobState",
    "LoRAAdapter",
    "LoRAConfig",
    "MergeReport",
    "Message",
    "NewEvent",
    "QuantizationReport",
    "ReadingConfig",
    "ReproductionReport",
    "Requirements",
    "RestoreReport",
    "Settings",
    "SweepHandle",
    "SweepReport",
    "TrainingConfig",
    "TrainingPreview",
    "TrainingReport",
    "UnbundleReport",
    "Value",
    "Version",
    "errors",
]

_OTHER_REPORTS = frozenset({"BackupReport", "BundleReport", "RestoreReport", "SweepReport", "UnbundleReport"})
_MODULES = {
    name: f"finch_hub.{module}"
    for module, names in {
        "engine.inference.generator": ["GeneratorModel"],
        "engine.training.adapter": ["LoRAAdapter"],
        "hub.facade": ["Hub"],
        "hub.jobs": ["JobHandle"],
        "hub.sweeping": ["SweepHandle"],
        "hub.versions": ["Version"],
        "registry.values": ["AdapterVersion"],
        "settings": ["Settings"],
        "specs.backups": ["BackupReport", "RestoreReport"],
        "specs.bundles": ["BundleReport", "UnbundleReport"],
        "specs.events": ["Event", "NewEvent"],
        "specs.examples": ["Example", "Message"],
        "specs.generation": ["GenerationConfig"],
        "specs.jobs": ["BaseModelSource", "Job", "JobState", "Requirements"],
        "specs.lora": ["LoRAConfig"],
        "specs.previews": ["DataPreview", "TrainingPreview"],
        "specs.reading": ["ReadingConfig"],
        "specs.reports": [name for name in __all__ if name.endswith("Report") and name not in _OTHER_REPORTS],
        "specs.sweeps": ["SweepReport"],
        "specs.training": ["TrainingConfig"],
        "specs.value": ["Value"],
    }.items()
    for name in names
}


@contextlib.contextmanager
def _open_view(shows: bool | None) -> Iterator[_progress.Show]:
    from finch_hub.display.sessions import open_client_view

    with open_client_view(shows) as view:
        yield view.show


def _show_advance(advance: _progress.Advance) -> None:
    from finch_hub.display.progress import show_advance

    show_advance(advance)


def _draw_html(value: object) -> str | None:
    from finch_hub.display.notebook_drawings import draw_html

    return draw_html(value)


_summaries.use_drawings(_draw_html)
_progress.use_display(_progress.Display(_open_view, _show_advance))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("finch-hub")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
