"""Health of workers, as containers and service managers ask."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from finch_hub import errors
from finch_hub.registry import workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)

ALIVE = "alive"
READY = "ready"


class HealthFiles:
    """Files of one worker whose ages tell its health. To ask for them takes milliseconds and no database.

    Later trouble with the folder is logged, since a worker that only looks dead does its work.

    Args:
        folder: folder of the files; None writes none.

    Raises:
        InvalidSpec: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._trouble = TroubleLog(log, "report_health", about="folder")
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / READY).unlink(missing_ok=True)  # a worker that was killed may have left the file
            (folder / ALIVE).touch()
        except OSError as error:
            what = f"cannot write to {folder}: {error.strerror}"
            raise errors.InvalidSpec(what, where="FINCH_HEALTH_FOLDER", fix="choose another folder") from None

    def report_alive(self) -> None:
        """Report that the worker goes on, whether or not others answer it."""
        if self._folder is not None:
            with self._reporting():
                (self._folder / ALIVE).touch()
                self._trouble.end()

    def report_ready(self, is_ready: bool) -> None:
        """Report whether the database has the worker's heartbeat and the worker accepts jobs."""
        if self._folder is not None:
            with self._reporting():
                if is_ready:
                    (self._folder / READY).touch()
                else:
                    (self._folder / READY).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._trouble.add(error)


def find_living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that sent a heartbeat within three leases.

    Raises:
        Unavailable: the database does not answer.
    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    with contextlib.closing(database), database.read() as session:
        known = workers.find(session, silent_after=3 * settings.lease_seconds)
    return [worker.id for worker in known if worker.hostname == hostname and worker.state not in ("silent", "stopped")]
