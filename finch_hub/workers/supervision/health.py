"""Whether the workers of a host are alive, as containers and service managers ask."""

from __future__ import annotations

from finch_hub.registry import workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings


def living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that were heard of lately.

    Raises:
        Unavailable: the database does not answer.

    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    try:
        with database.read() as session:
            found = workers.find(session, silent_after=3 * settings.lease_seconds)
    finally:
        database.close()
    return [each.id for each in found if each.hostname == hostname and each.state not in ("silent", "stopped")]
