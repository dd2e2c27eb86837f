"""``python -m finch_hub.workers.health``: exit status 0 if a worker of this host is alive."""

from __future__ import annotations

import socket
import sys

from finch_hub import errors
from finch_hub import settings as settings_module
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


def main() -> int:
    """Print who is alive; returns the exit status."""
    try:
        names = living(settings_module.load(), socket.gethostname())
    except errors.FinchError as error:
        print(error, file=sys.stderr)
        return 1
    print(" ".join(names) or "no worker of this host is alive")
    return 0 if names else 1


if __name__ == "__main__":
    sys.exit(main())
