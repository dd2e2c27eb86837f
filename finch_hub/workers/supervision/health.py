"""Health of the workers of a host, as containers and service managers ask."""

from __future__ import annotations

import contextlib

from finch_hub.registry import workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings


def find_living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that sent a heartbeat within three leases.

    Raises:
        Unavailable: the database does not answer.
    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    with contextlib.closing(database), database.read() as session:
        known = workers.find(session, silent_after=3 * settings.lease_seconds)
    return [worker.id for worker in known if worker.hostname == hostname and worker.state not in ("silent", "stopped")]
