"""The table of job kinds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from finch_hub import errors

if TYPE_CHECKING:
    from finch_hub.workers.runs.job_kind import JobKind

VERSION = metadata.version("finch-hub")
"""Version of Finch Hub that knows these kinds."""
MODULES = {
    "train": "finch_hub.workers.runs.train",
    "compose": "finch_hub.workers.runs.compose",
    "merge": "finch_hub.workers.runs.merge",
    "quantize": "finch_hub.workers.runs.quantize",
    "export": "finch_hub.workers.runs.export",
    "evaluate": "finch_hub.workers.runs.evaluate",
    "reproduce": "finch_hub.workers.runs.reproduce",
}
"""Modules of the kinds, by name; each has its :class:`~finch_hub.workers.runs.job_kind.JobKind` as `KIND`."""


def kind_of(name: str) -> JobKind[Any, Any, Any]:
    """Return the kind of that name; imports its module only.

    Raises:
        NotFound: this version of Finch Hub has no such kind.
    """
    if name not in MODULES:
        raise errors.NotFound("job kind", name, MODULES)
    kind: JobKind[Any, Any, Any] = importlib.import_module(MODULES[name]).KIND
    return kind


def explain_unreadable(name: str, stored: Mapping[str, Any]) -> str | None:
    """Return why this version cannot read the stored specification of a job, None if it can.

    It is None for a kind that only another version knows, too.
    """
    if name not in MODULES:
        return None
    try:
        kind_of(name).spec_of(stored)
    except errors.InvalidSpec as error:
        return "; ".join(f"{problem.where} {problem.what}".strip() for problem in error.problems)
    return None
