"""Readiness of a worker: whether it claims jobs, and why it does not."""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import Future

from finch_hub import errors
from finch_hub.registry.values import RetryPolicy
from finch_hub.storage.stores import Stores
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)

SUSPECT_AFTER = 3  # jobs in a row that failed by a fault of the worker
_FRESH_SECONDS = 5.0  # until the store is checked again before a claim
_ANSWER_SECONDS = 10.0  # for which a store may take to answer the check
# Until a second check begins beside one that hangs. It doubles, since no thread can be ended. A check of a mount that
# was replaced meanwhile hangs for ever.
_HANG_SECONDS, _LONGEST_HANG_SECONDS = 300.0, 3600.0
_LEAST_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.1


class Readiness:
    """Readiness of one worker to claim jobs.

    The worker claims nothing while its artifact store is unwell. After failures at several jobs in a row that another
    worker would not confirm, such as children that cannot start, it is suspect. Then it tries one job at a time, after
    pauses that grow, until an attempt succeeds.
    """

    def __init__(self, stores: Stores, calls: BlockingCalls, *, stopping: threading.Event) -> None:
        self._store, self._calls, self._stopping = stores.artifacts, calls, stopping
        settings = stores.settings
        self._fresh_seconds = min(_FRESH_SECONDS, settings.heartbeat_seconds)
        self._pauses = RetryPolicy(base_delay=max(settings.retry_seconds, _LEAST_PAUSE_SECONDS))
        self._checking, self._changing = threading.Lock(), threading.Lock()
        self._store_log = TroubleLog(log, "check_store", about="store")
        self._fault_log = TroubleLog(log, "pause_claims", about="claims")
        self._checked_at = float("-inf")
        self._pending: Future[None] | None = None
        self._pending_since, self._hang_seconds = 0.0, _HANG_SECONDS
        self._is_writable = False  # as far as is known
        self._store_trouble: str | None = None
        self._fault: str | None = None  # of the worker
        self._failed_jobs: set[str] = set()  # since the last success
        self._num_pauses = 0
        self._next_try = float("-inf")

    @property
    def remark(self) -> str | None:
        """Why the worker claims no jobs, None if it does."""
        if self._store_trouble is not None:
            return self._store_trouble
        if not self._is_suspect:
            return None
        return (
            f"its attempts at {len(self._failed_jobs)} jobs in a row failed: {self._fault} (repair the worker; it tries"
            " one job again after a pause)"
        )

    @property
    def is_ready(self) -> bool:
        """Whether the worker may claim, as far as is known without asking the store."""
        return not self._is_suspect and self._store_trouble is None and self._is_fresh

    def seconds_until_try(self) -> float:
        """Return the seconds until a worker that is not ready tries again."""
        moment = self._next_try if self._store_trouble is None else self._checked_at + self._fresh_seconds
        return max(0.0, moment - clock.elapsed())

    def check_store(self) -> bool:
        """Check the artifact store if the last check is some seconds old, and return whether it is well."""
        with self._checking:
            if not self._is_fresh:
                trouble = self._ask_store()
                if self._stopping.is_set():  # the check may not have ended
                    return False
                self._store_trouble = trouble
                self._checked_at = clock.elapsed()
                if trouble is None:
                    self._is_writable = True
                    self._store_log.end()
                else:
                    self._store_log.add(trouble)
            return self._store_trouble is None

    def take_turn(self) -> bool:
        """Return whether a job may be claimed now. A suspect worker's turn is then taken, for a pause."""
        if not self.check_store():
            return False
        with self._changing:
            if self._is_suspect:
                if clock.elapsed() < self._next_try:
                    return False
                self._next_try = clock.elapsed() + self._pauses.delay(self._num_pauses)
            return True

    def return_turn(self) -> None:
        """Give back a turn in which no job was claimed."""
        with self._changing:
            self._next_try = float("-inf")

    def add_success(self) -> None:
        """Note that a job ran to its end."""
        with self._changing:
            self._failed_jobs.clear()
            self._num_pauses, self._fault = 0, None
            self._fault_log.end()

    def add_fault(self, job_id: str, reason: str) -> bool:
        """Note that a job failed by a fault of the worker, and return whether the worker is suspect."""
        with self._changing:
            self._failed_jobs.add(job_id)
            self._fault = reason
            if self._is_suspect:
                self._num_pauses += 1
                self._next_try = clock.elapsed() + self._pauses.delay(self._num_pauses)
                self._fault_log.add(f"{len(self._failed_jobs)} jobs in a row failed, so this worker pauses: {reason}")
            return self._is_suspect

    def add_store_trouble(self) -> None:
        """Note that the store failed a job, so that it is checked before the next claim."""
        with self._checking:
            self._checked_at = float("-inf")
            self._is_writable = False

    @property
    def _is_suspect(self) -> bool:
        return len(self._failed_jobs) >= SUSPECT_AFTER

    @property
    def _is_fresh(self) -> bool:
        return clock.elapsed() - self._checked_at < self._fresh_seconds

    def _ask_store(self) -> str | None:
        """Return why the store is unwell, None if it is well."""
        if self._pending is not None and clock.elapsed() - self._pending_since > self._hang_seconds:
            self._pending = None
            self._hang_seconds = min(2 * self._hang_seconds, _LONGEST_HANG_SECONDS)
        if self._pending is None:  # a check that hangs goes on
            writes = not self._is_writable
            self._pending = self._calls.start(lambda: self._store.check(again=True, writes=writes))
            self._pending_since = clock.elapsed()
        pending, began = self._pending, clock.elapsed()
        while not pending.done():
            if self._stopping.is_set() or clock.elapsed() - began > _ANSWER_SECONDS:
                return f"artifact store {self._store.name} did not answer within {_ANSWER_SECONDS:g} s"
            with contextlib.suppress(TimeoutError):
                pending.exception(_POLL_SECONDS)
        self._pending, self._hang_seconds = None, _HANG_SECONDS
        error = pending.exception()
        if error is not None and not isinstance(error, errors.FinchError):
            log.error("check_store", exc_info=error)
        return None if error is None else str(error) or type(error).__name__
