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

    A folder that is removed later is made again. One that cannot be written any more ends no work of the worker.

    Args:
        folder: folder of the files; None writes none.

    Raises:
        InvalidSpec: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._trouble = TroubleLog(log, "report_health", about="folder")
        try:
            self._mark(READY, False)  # a worker that was killed may have left the file
            self._mark(ALIVE, True)
        except OSError as error:
            what = f"cannot write to {folder}: {error.strerror}"
            raise errors.InvalidSpec(what, where="FINCH_HEALTH_FOLDER", fix="choose another folder") from None

    def report_alive(self) -> None:
        """Report that the worker goes on, whether or not others answer it."""
        with self._log_trouble():
            self._mark(ALIVE, True)

    def report_ready(self, is_ready: bool) -> None:
        """Report whether the database has the worker's heartbeat and the worker accepts jobs."""
        with self._log_trouble():
            self._mark(READY, is_ready)

    def _mark(self, name: str, is_set: bool) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if is_set:
            (self._folder / name).touch()
        else:
            (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _log_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._trouble.add(error)
        else:
            self._trouble.end()


def find_living(settings: Settings, hostname: str) -> list[str]:
    """Return the names of the workers of a host that sent a heartbeat within three leases.

    Raises:
        Unavailable: the database does not answer.
    """
    database = Database(settings.database, allow_insecure=settings.allow_insecure)
    with contextlib.closing(database), database.read() as session:
        known = workers.find(session, silent_after=3 * settings.lease_seconds)
    return [worker.id for worker in known if worker.hostname == hostname and worker.state not in ("silent", "stopped")]
