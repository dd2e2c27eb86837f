"""One attempt's right to write: renewed by a thread of its own, lost to whoever claims the job after it ran out."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job
from finch_hub.workers import clock

log = logging.getLogger(__name__)


class Lease:
    """Renews the lease of a claimed job until it is closed, and knows how long it holds for certain.

    The certain end is counted from before the claim or renewal was asked for (`asked`), by a clock that goes on while
    this process is stopped; the database's own clock decides who may write, this one only says when to doubt.
    """

    def __init__(self, database: Database, job: Job, settings: Settings, *, asked: float) -> None:
        self._database, self._job, self._settings = database, job, settings
        self._certain_until = asked + settings.lease_seconds
        self._closed = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job.id}", daemon=True)
        self.cancel_requested = False
        self.lost = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    @property
    def doubtful(self) -> bool:
        """Whether somebody else may have claimed the job, for all that is known here."""
        return self.lost or clock.elapsed() >= self._certain_until

    def renew(self) -> None:
        """Ask the database for another lease.

        Raises:
            StaleFence: this attempt no longer owns the job.
            Unavailable: the database does not answer.

        """
        with self._renewing:
            if self.lost:
                raise errors.StaleFence(self._job.id, self._job.fence)
            asked = clock.elapsed()
            try:
                with self._database.write() as session:
                    renewal = attempts.renew(session, self._job.id, self._job.fence, self._settings.lease_seconds)
            except errors.StaleFence:
                self.lost = True
                raise
            self._certain_until = asked + self._settings.lease_seconds
            self.cancel_requested = renewal.cancel_requested

    def _keep(self) -> None:
        wait = self._settings.heartbeat_seconds
        while not self._closed.wait(wait):
            try:
                self.renew()
                wait = self._settings.heartbeat_seconds
            except errors.StaleFence:
                return
            except errors.Unavailable as error:
                log.warning("action=renew job_id=%s attempt=%d error=%s", self._job.id, self._job.attempts, error)
                wait = min(1.0, self._settings.heartbeat_seconds)
