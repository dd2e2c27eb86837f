"""An attempt's right to go on: renewed while it runs, lost to whoever claims the job after it ran out."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job
from finch_hub.workers.supervision import clock

if TYPE_CHECKING:
    from finch_hub.workers.supervision.group import Seat
    from finch_hub.workers.supervision.process import Child

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0  # after which a database that did not answer is asked again
_LEAST_WAIT_SECONDS = 0.05


class Lease:
    """The lease of one claimed job, which knows how long it holds for certain.

    The certain end is counted from before the claim or renewal was asked for (`asked`), by a clock that goes on while
    this process is stopped; the database's own clock decides who may write, this one only says when to doubt. A child
    that it guards stands still from then until the lease is renewed.

    Attributes:
        certain_until: by :func:`clock.elapsed`.
        due: when it is to be renewed, by the same clock.

    """

    def __init__(self, database: Database, job: Job, settings: Settings, *, asked: float) -> None:
        self._database, self._job, self._settings = database, job, settings
        self._renewing = threading.Lock()
        self._guarding = threading.Lock()  # held for moments only, unlike the other one
        self._child: Child | Seat | None = None
        self._doubted_since: float | None = None
        self._doubted_before = 0.0
        self.certain_until = asked + settings.lease_seconds
        self.due = clock.elapsed() + settings.heartbeat_seconds
        self.cancel_requested = False
        self.lost = False

    def guard(self, child: Child | Seat | None) -> None:
        """Let this child stand still whenever the lease is in doubt; with None, no child is guarded any more."""
        with self._guarding:
            self._child = child
            if child is not None and self._doubted_since is not None:
                child.suspend()

    def let_go(self) -> None:
        """Guard the child no more; it goes on."""
        with self._guarding:
            self._end_doubt()
            self._child = None

    def doubted(self) -> bool:
        """Tell whether somebody else may have claimed the job, for all that is known here; the child stands still then.

        Waits for nothing, so that no database that hangs lets a child run on without a lease.
        """
        with self._guarding:
            doubtful = self.lost or clock.elapsed() >= self.certain_until
            if doubtful and self._doubted_since is None:
                self._doubted_since = min(clock.elapsed(), self.certain_until)
                if self._child is not None:
                    self._child.suspend()
                log.warning("action=lease in doubt job_id=%s attempt=%d", self._job.id, self._job.attempts)
            return doubtful

    def elapsed(self) -> float:
        """Return :func:`clock.elapsed` less the time that the lease was in doubt: what limits of time count."""
        with self._guarding:
            now = clock.elapsed()
            return (now if self._doubted_since is None else self._doubted_since) - self._doubted_before

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
            self.cancel_requested = renewal.cancel_requested
            with self._guarding:
                self.certain_until = asked + self._settings.lease_seconds
                self.due = asked + self._settings.heartbeat_seconds
                if clock.elapsed() < self.certain_until:
                    self._end_doubt()

    def keep(self) -> None:
        """Renew it, or note when to try again; a lost one is left to its attempt to find."""
        try:
            self.renew()
        except errors.StaleFence:
            self.due = float("inf")
        except errors.Unavailable as error:
            log.warning("action=renew job_id=%s attempt=%d error=%s", self._job.id, self._job.attempts, error)
            self._try_again()
        except Exception:
            # Nobody foresaw it, but one thread keeps the leases of all: it must go on for the others.
            log.exception("action=renew job_id=%s attempt=%d", self._job.id, self._job.attempts)
            self._try_again()

    def _try_again(self) -> None:
        self.due = clock.elapsed() + min(_AGAIN_SECONDS, self._settings.heartbeat_seconds)

    def _end_doubt(self) -> None:
        if self._doubted_since is not None:
            self._doubted_before += clock.elapsed() - self._doubted_since
            self._doubted_since = None
            if self._child is not None:
                self._child.resume()


class Leases:
    """Keeps the leases of a worker's attempts: one thread renews them, another one watches for those in doubt."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._held: frozenset[Lease] = frozenset()
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=run.__name__, daemon=True) for run in (self._renew, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def hold(self, job: Job, *, asked: float) -> Iterator[Lease]:
        """Keep the lease of a job that was just claimed, until the block is left."""
        lease = Lease(self._database, job, self._settings, asked=asked)
        with self._changing:
            self._held |= {lease}
        try:
            yield lease
        finally:
            with self._changing:
                self._held -= {lease}
            lease.let_go()

    def close(self) -> None:
        """Keep nothing more."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    # A lease that comes while these wait is due after a heartbeat at the soonest, and in doubt after two.

    def _renew(self) -> None:
        while not self._closed.wait(self._until(*(lease.due for lease in self._held))):
            for lease in self._held:
                if lease.due <= clock.elapsed():
                    lease.keep()

    def _watch(self) -> None:
        while not self._closed.wait(self._until(*(lease.certain_until for lease in self._held))):
            for lease in self._held:
                lease.doubted()

    def _until(self, *moments: float) -> float:
        soonest = min(moments, default=float("inf")) - clock.elapsed()
        return min(max(soonest, _LEAST_WAIT_SECONDS), self._settings.heartbeat_seconds)
