"""What a worker shares with all of its attempts."""

from __future__ import annotations

from dataclasses import dataclass

from finch_hub.storage.redaction import Redactor
from finch_hub.storage.stores import Stores
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.event_buffer import EventBuffer
from finch_hub.workers.supervision.lease import Leases
from finch_hub.workers.supervision.readiness import Readiness
from finch_hub.workers.supervision.work_folders import WorkFolders


@dataclass(frozen=True, kw_only=True)
class AttemptContext:
    """Stores, leases, events, folders and readiness of the worker, beside which an attempt knows only its job."""

    stores: Stores
    leases: Leases
    events: EventBuffer
    folders: WorkFolders
    blocking_calls: BlockingCalls
    readiness: Readiness
    redactor: Redactor
