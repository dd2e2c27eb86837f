"""Health of workers, as containers and service managers ask."""

from __future__ import annotations

import contextlib
from pathlib import Path

from finch_hub import errors
from finch_hub.registry import workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings

ALIVE = "alive"
READY = "ready"


class HealthFiles:
    """Files of one worker whose ages tell its health. To ask for them takes milliseconds and no database.

    Args:
        folder: folder of the files; None writes none.

    Raises:
        InvalidSpec: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.report_ready(False)  # a worker that was killed may have left the file
            self.report_alive()
        except OSError as error:
            what = f"cannot write to {folder}: {error.strerror}"
            raise errors.InvalidSpec(what, where="FINCH_HEALTH_FOLDER", fix="choose another folder") from None

    def report_alive(self) -> None:
        """Report that the worker goes on, whether or not others answer it."""
        if self._folder is not None:
            (self._folder / ALIVE).touch()

    def report_ready(self, is_ready: bool) -> None:
        """Report whether the database has the worker's heartbeat and the worker accepts jobs."""
        if self._folder is not None and is_ready:
            (self._folder / READY).touch()
        elif self._folder is not None:
            (self._folder / READY).unlink(missing_ok=True)


def find_living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that sent a heartbeat within three leases.

    Raises:
        Unavailable: the database does not answer.
    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    with contextlib.closing(database), database.read() as session:
        known = workers.find(session, silent_after=3 * settings.lease_seconds)
    return [worker.id for worker in known if worker.hostname == hostname and worker.state not in ("silent", "stopped")]
