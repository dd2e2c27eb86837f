"""Leases: the right of an attempt to go on, renewed while it runs."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job
from finch_hub.workers.logs.context import identify
from finch_hub.workers.supervision import clock, instruments
from finch_hub.workers.supervision.process import ChildProcess

log = logging.getLogger(__name__)

StopReason = Literal["cancel", "hand_back", "time_limit"]

_RETRY_SECONDS = 1.0  # until a database that did not answer is tried again
_MIN_WAIT_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim that is sent to the database, by its random token, and when, by :func:`clock.elapsed`."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    requested_at: float = field(default_factory=lambda: clock.elapsed())


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedJob:
    """A claimed job, and when its claim was sent, by :func:`clock.elapsed`. The lease counts from then."""

    job: Job
    requested_at: float


class Lease:
    """The lease of one claimed job.

    The database's clock decides who may write. This side only knows until when the lease is certain, counted from
    before the claim or renewal was sent, by a clock that goes on while this process is stopped. After `certain_until`
    the lease is in doubt: another worker may have claimed the job. The child is suspended until the lease is renewed.

    Attributes:
        job_id: id of the job.
        is_lost: whether another attempt is known to own the job.
    """

    def __init__(
        self, database: Database, claimed: ClaimedJob, settings: Settings, *, stopping: threading.Event
    ) -> None:
        self._database, self._job, self._settings, self._stopping = database, claimed.job, settings, stopping
        self._renewing = threading.Lock()
        self._guarding = threading.Lock()  # never held while the database is asked
        self._child: ChildProcess | None = None
        self._doubt_began: float | None = None
        self._seconds_in_doubt = 0.0
        self.is_lost = self._is_cancel_requested = self._is_released = False
        self.job_id = claimed.job.id
        self._began = clock.elapsed()
        self.certain_until = claimed.requested_at + settings.lease_seconds
        self.renew_at = self._began + settings.heartbeat_seconds

    def guard(self, child: ChildProcess | None) -> None:
        """Suspend this child whenever the lease is in doubt. None guards no child."""
        with self._guarding:
            self._child = child
            if child is not None and self._doubt_began is not None:
                child.suspend()

    def release(self) -> None:
        """Guard no child any more, and resume the last one."""
        with self._guarding:
            self._end_doubt()
            self._child, self._is_released = None, True

    def suspend_if_in_doubt(self) -> bool:
        """Suspend the child if the lease is in doubt, and return whether it is.

        This waits for nothing, so that a database that hangs lets no child run without a lease.
        """
        with self._guarding:
            is_in_doubt = self.is_lost or clock.elapsed() >= self.certain_until
            if is_in_doubt and self._doubt_began is None and not self._is_released:
                self._doubt_began = min(clock.elapsed(), self.certain_until)
                instruments.LEASES_IN_DOUBT.inc()
                if self._child is not None:
                    self._child.suspend()
                log.warning("doubt_lease", extra=identify(self._job))
            return is_in_doubt

    def elapsed(self) -> float:
        """Return :func:`clock.elapsed` without the time in doubt, in which the job made no progress."""
        with self._guarding:
            now = clock.elapsed()
            return (now if self._doubt_began is None else self._doubt_began) - self._seconds_in_doubt

    def stop_reason(self) -> StopReason | None:
        """Return why the attempt must stop, None if it may go on."""
        limit = self._job.requirements.time_limit
        if self._is_cancel_requested:
            return "cancel"
        if self._stopping.is_set():
            return "hand_back"
        return "time_limit" if limit is not None and self.elapsed() - self._began > limit else None

    def renew(self) -> None:
        """Extend the lease in the database.

        Raises:
            StaleFence: another attempt owns the job.
            Unavailable: the database does not answer.
        """
        with self._renewing:
            if self.is_lost:
                raise errors.StaleFence(self._job.id, self._job.fence)
            requested_at = clock.elapsed()
            try:
                with self._database.write() as session:
                    renewal = attempts.renew(session, self._job, self._settings.lease_seconds)
            except errors.StaleFence:
                self.is_lost = True
                raise
            self._is_cancel_requested = renewal.cancel_requested
            with self._guarding:
                self.certain_until = requested_at + self._settings.lease_seconds
                self.renew_at = requested_at + self._settings.heartbeat_seconds
                if clock.elapsed() < self.certain_until:
                    self._end_doubt()

    def keep(self) -> None:
        """Renew the lease, or note when to try again. The attempt itself finds out that its lease is lost."""
        try:
            self.renew()
        except errors.StaleFence:
            self.renew_at = float("inf")
        except Exception as error:  # unexpected ones too, since one thread renews all leases
            is_expected = isinstance(error, errors.Unavailable)
            level = logging.WARNING if is_expected else logging.ERROR
            log.log(level, "renew", extra={**identify(self._job), "error": error}, exc_info=not is_expected)
            self.renew_at = clock.elapsed() + min(_RETRY_SECONDS, self._settings.heartbeat_seconds)

    def recover(self) -> None:
        """Renew a lease in doubt, waiting for the database if it does not answer.

        Raises:
            StaleFence: another attempt owns the job, or the worker ends first.
        """
        began = clock.elapsed()
        while self.suspend_if_in_doubt():
            try:
                self.renew()
            except errors.Unavailable:
                self.wait_for_database(began)

    def wait_for_database(self, since: float) -> None:
        """Wait a moment before the next try of a database that does not answer.

        Args:
            since: when the first try began, by :func:`clock.elapsed`.

        Raises:
            StaleFence: the worker is to end and its grace is over. The job waits for the end of its lease.
        """
        if self._stopping.is_set() and clock.elapsed() - since > self._settings.grace_seconds:
            raise errors.StaleFence(self._job.id, self._job.fence)
        time.sleep(_RETRY_SECONDS)

    def _end_doubt(self) -> None:
        if self._doubt_began is not None:
            self._seconds_in_doubt += clock.elapsed() - self._doubt_began
            self._doubt_began = None
            instruments.LEASES_IN_DOUBT.dec()
            if self._child is not None:
                self._child.resume()


class Leases:
    """Leases of a worker's attempts, with one thread that renews them and one that looks for those in doubt."""

    def __init__(self, database: Database, settings: Settings, *, stopping: threading.Event) -> None:
        self._database, self._settings, self._stopping = database, settings, stopping
        self._held: frozenset[Lease] = frozenset()
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._renew, name="leases-renew", daemon=True),
            threading.Thread(target=self._suspend, name="leases-suspend", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def hold(self, claimed: ClaimedJob) -> Iterator[Lease]:
        """Keep the lease of a job that was just claimed, until the block is left."""
        lease = Lease(self._database, claimed, self._settings, stopping=self._stopping)
        with self._changing:
            self._held |= {lease}
        try:
            yield lease
        finally:
            with self._changing:
                self._held -= {lease}
            lease.release()

    def renew_due(self) -> frozenset[str]:
        """Renew the leases that are due, and return the ids of the jobs whose leases are held."""
        for lease in self._held:
            if lease.renew_at <= clock.elapsed():
                lease.keep()
        return frozenset(lease.job_id for lease in self._held if not lease.is_lost)

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    # A lease that is added during a wait is renewed after a heartbeat at the soonest, and in doubt after two.

    def _renew(self) -> None:
        while not self._closed.wait(self._seconds_until(lease.renew_at for lease in self._held)):
            self.renew_due()

    def _suspend(self) -> None:
        while not self._closed.wait(self._seconds_until(lease.certain_until for lease in self._held)):
            for lease in self._held:
                lease.suspend_if_in_doubt()

    def _seconds_until(self, moments: Iterator[float]) -> float:
        soonest = min(moments, default=float("inf")) - clock.elapsed()
        return min(max(soonest, _MIN_WAIT_SECONDS), self._settings.heartbeat_seconds)
