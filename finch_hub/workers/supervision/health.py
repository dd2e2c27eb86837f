"""Health of workers, as containers and service managers ask."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from finch_hub import errors
from finch_hub.registry import workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings

log = logging.getLogger(__name__)

ALIVE = "alive"
READY = "ready"


class HealthFiles:
    """Files of one worker whose ages tell its health. To ask for them takes milliseconds and no database.

    A worker goes on if it cannot write them later. Its probes see that they are old.

    Args:
        folder: folder of the files; None writes none.

    Raises:
        InvalidSpec: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._is_in_trouble = folder, False
        try:
            self._write(READY, False)  # a worker that was killed may have left the file
            self._write(ALIVE, True)
        except OSError as error:
            what = f"cannot write to {folder}: {error.strerror}"
            raise errors.InvalidSpec(what, where="FINCH_HEALTH_FOLDER", fix="choose another folder") from None

    def report_alive(self) -> None:
        """Report that the worker goes on, whether or not others answer it."""
        self._try_to_write(ALIVE, True)

    def report_ready(self, is_ready: bool) -> None:
        """Report whether the database has the worker's heartbeat and the worker accepts jobs."""
        self._try_to_write(READY, is_ready)

    def _try_to_write(self, name: str, exists: bool) -> None:
        try:
            self._write(name, exists)
        except OSError as error:
            if not self._is_in_trouble:
                log.warning("health", extra={"error": error})
            self._is_in_trouble = True
        else:
            self._is_in_trouble = False

    def _write(self, name: str, exists: bool) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        if exists:
            (self._folder / name).touch()
        else:
            (self._folder / name).unlink(missing_ok=True)


def find_living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that sent a heartbeat within three leases.

    Raises:
        Unavailable: the database does not answer.
    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    with contextlib.closing(database), database.read() as session:
        known = workers.find(session, silent_after=3 * settings.lease_seconds)
    return [worker.id for worker in known if worker.hostname == hostname and worker.state not in ("silent", "stopped")]
