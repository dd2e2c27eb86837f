"""What each kind of job does, a file a kind.

A run is a module with three functions, or four. Both sides import the module, so each function imports what only its
side needs: torch, transformers and peft stay out of the supervisor, sqlalchemy and Celery out of the child.

``prepare(job, stores, workdir)``
    in the supervisor, before anything else: everything that the child needs as one JSON object, artefacts fetched to
    local paths, plugins resolved to their targets. Errors end the job before a process is started. Who writes to
    `workdir`, the attempt's folder, makes it.
``execute(order, channel)``
    in the child: the work. `order` is what `prepare` returned, with `job_id` and `workdir`. Returns a JSON object.
``store(job, outcome, stores)``
    in the supervisor: what the child wrote goes through the artefact gate into the store; idempotent, since it may be
    repeated. Returns a JSON object. Kinds whose result stands elsewhere, or in the registry alone, have none.
``record(session, job, outcome, stored)``
    in the supervisor, inside the transaction that also ends the job: versions, lineage, metrics. Returns the result.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from finch_hub.registry.database import Session
    from finch_hub.specs.jobs import Job
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


class Run(Protocol):
    """The interface of a run's module."""

    def prepare(self, job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
        """Resolve everything that the child needs."""

    def execute(self, order: dict[str, Any], channel: Channel) -> dict[str, Any]:
        """Do the work."""

    def record(self, session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
        """Register what the work made."""


@runtime_checkable
class StoringRun(Run, Protocol):
    """The interface of one that has something to store."""

    def store(self, job: Job, outcome: dict[str, Any], stores: Stores) -> dict[str, Any]:
        """Store what the work made."""


def run_of(kind: str) -> Run:
    """Return the run of a job kind; imports its module only."""
    return cast(Run, importlib.import_module(f"finch_hub.workers.runs.{kind}"))
