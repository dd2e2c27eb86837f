"""Maintenance: heartbeats, sweeps, wake-ups for jobs that are due, and the end of a worker that is idle."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from finch_hub import errors
from finch_hub.registry import (
    attempts,
    audit,
    jobs,
    listeners,
    outbox,
    schema_revisions,
    settlements,
    stuck_jobs,
    values,
    workers,
)
from finch_hub.registry.database import Session
from finch_hub.storage.stores import Stores
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.embedded import home
from finch_hub.workers.logs.context import identify
from finch_hub.workers.messaging.dispatcher import Dispatcher
from finch_hub.workers.supervision import clock, instruments
from finch_hub.workers.supervision.attempt_source import AttemptSource
from finch_hub.workers.supervision.health import HealthFiles
from finch_hub.workers.supervision.slots import Slots

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
_LEAST_PAUSE_SECONDS = 2.0  # between two looks at the database that can mean a sleep; longer than a usual wait
_DAY_SECONDS = 86_400
_PRUNE_SECONDS = 300.0  # between two looks at the history, if no job ended here and the first found nothing to delete
_FORGET_SILENT_DAYS = 30
_FORGET_STOPPED_DAYS = 1


class Maintenance:
    """Maintenance of one worker, in a thread of its own.

    Attributes:
        is_ending_idle: whether the worker, which is `is_on_demand`, was ended because it was idle.
        failure: why the worker ends, if the database got another schema or registration, or lost its file. With another
            schema it finishes its jobs first.
    """

    def __init__(
        self,
        entry: values.Worker,
        stores: Stores,
        slots: Slots,
        attempt_source: AttemptSource,
        dispatcher: Dispatcher,
        *,
        is_on_demand: bool,
        end_worker: Callable[[], None],
    ) -> None:
        self._entry, self._stores = entry, stores
        self._slots, self._attempt_source, self._dispatcher = slots, attempt_source, dispatcher
        self._is_on_demand, self._end_worker, self._settings = is_on_demand, end_worker, stores.settings
        self._health = HealthFiles(stores.settings.health_folder)
        self._closed, self._woken = threading.Event(), threading.Event()
        self._busy_until = self._answered_at = clock.elapsed()
        self._prune_at = 0.0
        self._stuck_after = 0  # number of the last waiting job that a sweep looked at
        self._reported_at = self._swept_at = float("-inf")
        self.is_ending_idle = self._hands_over = False
        self.failure: errors.FinchError | None = None
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: a job has ended, so jobs that depend on it may be due."""
        self._busy_until = clock.elapsed()
        self._prune_at = 0.0
        self._woken.set()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._woken.set()
        self._thread.join()
        self._health.report_ready(False)

    def _run(self) -> None:
        settings = self._settings
        while not self._closed.is_set():
            try:
                self._health.report_alive()
                self._look(clock.elapsed())
            except errors.ReplacedDatabase as error:
                if self.failure is None:
                    log.error("end", extra={"error": error})
                self.failure = error
                self._end_worker()
            except errors.FinchError as error:
                log.warning("maintenance", extra={"error": error})
            except Exception:
                log.exception("maintenance")
            self._woken.wait(min(1.0, settings.sweep_seconds, settings.heartbeat_seconds))
            self._closed.wait(_PAUSE_SECONDS)  # so that jobs that end in quick succession cause one look
            self._woken.clear()

    def _look(self, now: float) -> None:
        settings = self._settings
        if now - self._answered_at > max(settings.lease_seconds - settings.heartbeat_seconds, _LEAST_PAUSE_SECONDS):
            # The machine slept, or the database did not answer, also for others: they renew their leases first.
            self._swept_at = now - settings.sweep_seconds + settings.heartbeat_seconds
        if now - self._reported_at >= settings.heartbeat_seconds:
            self._reported_at = now
            self._report()
        if now - self._swept_at >= settings.sweep_seconds:
            self._swept_at = now
            self._sweep()
        while settlements.settle_due(self._stores.database) and clock.elapsed() - now < settings.heartbeat_seconds / 2:
            pass
        self._dispatcher.dispatch_due()
        self._answered_at = clock.elapsed()
        self._slots.drop_idle_children(older_than=settings.warm_seconds)
        self._end_if_idle(now)

    def _report(self) -> None:
        """Send a heartbeat, and do what was requested of the worker."""
        devices = self._slots.refresh_devices()
        hands_over = self._is_on_demand and self._slots.are_wanted()
        if hands_over and not self._hands_over:
            log.info("hand_over")
        self._hands_over = hands_over
        try:
            with self._stores.database.write() as session:
                self._check_schema(session)
                requested = workers.heartbeat(session, self._entry, devices, remark=self._find_remark())
        except errors.Conflict as error:
            if self.failure is None:
                log.error("heartbeat", extra={"error": error})
            self.failure, requested = self.failure or error, "stopping"
        is_draining = requested != "active" or hands_over or self.failure is not None
        self._attempt_source.is_draining = is_draining
        claims = not is_draining and self._find_remark() is None and not self._attempt_source.stopping.is_set()
        self._health.report_ready(claims)
        instruments.CLAIMS_JOBS.set(claims)
        if requested == "stopping" or (is_draining and not self._slots.are_busy):
            self._end_worker()

    def _find_remark(self) -> str | None:
        """Return why the worker claims nothing by itself, None if it claims."""
        if self.failure is not None:
            return str(self.failure)
        if self._hands_over:
            return workers.HANDS_OVER
        remark = self._attempt_source.readiness.remark
        return None if remark is None else self._stores.redactor.clean(remark)

    def _check_schema(self, session: Session) -> None:
        """Claim nothing more once the database has another schema than this code."""
        try:
            name = str(self._stores.database)
            schema_revisions.check(schema_revisions.read(session, name), name)
        except errors.SchemaMismatch as error:
            if self.failure is None:
                log.warning("drain", extra={"error": error})
            self.failure = error
            self._attempt_source.is_draining = True

    def _sweep(self) -> None:
        settings = self._settings
        policy = values.RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)
        held = self._attempt_source.renew_leases()
        with self._stores.database.write() as session:
            expired = attempts.expire_leases(session, policy, held=held)
        for job in expired:
            log.warning("expire", extra={**identify(job), "state": job.state.value})
        instruments.EXPIRED_LEASES.inc(len(expired))
        with self._stores.database.write() as session:  # its failures undo no end of a lease
            self._stuck_after = stuck_jobs.settle(session, after=self._stuck_after)
            if names := workers.forget(
                session, silent=_FORGET_SILENT_DAYS * _DAY_SECONDS, stopped=_FORGET_STOPPED_DAYS * _DAY_SECONDS
            ):
                log.info("forget", extra={"workers": ",".join(names)})
            if names := listeners.forget(session):
                log.info("forget", extra={"listeners": ",".join(names)})
        instruments.SWEEPS.inc()
        if clock.elapsed() >= self._prune_at:
            self._prune()
        if settings.broker_url is None:
            home_broker.ensure(settings)  # last, since it waits for one that does not start

    def _prune(self) -> None:
        days, max_jobs, audit_days = self._settings.history_days, self._settings.history_jobs, self._settings.audit_days
        if days is None and max_jobs is None and audit_days is None:
            return
        self._prune_at = clock.elapsed() + _PRUNE_SECONDS  # set first, because a job that ends meanwhile resets it
        with self._stores.database.write() as session:
            older_than = None if days is None else days * _DAY_SECONDS
            num_jobs = len(jobs.prune(session, older_than=older_than, beyond=max_jobs))
            num_entries = 0 if audit_days is None else audit.prune(session, older_than=audit_days * _DAY_SECONDS)
        if num_jobs or num_entries:
            log.info("prune", extra={"jobs": num_jobs, "audit": num_entries})
            self._prune_at = 0.0

    def _is_needed(self) -> bool:
        """Return whether a job is to start later: after its wait, or when this worker is well again."""
        is_paused = self._attempt_source.readiness.remark is not None
        with self._stores.database.read() as session:
            return outbox.has_queued(session) if is_paused else outbox.has_unsent(session)

    def _end_if_idle(self, now: float) -> None:
        if not self._is_on_demand:
            return
        if not home.exists(self._settings):
            log.warning("leave", extra={"error": "the home was removed"})
            self._end_worker()
        elif self._slots.are_busy:
            self._busy_until = now
        elif now - self._busy_until > self._settings.idle_seconds:
            if self._is_needed():
                self._busy_until = now  # nobody else would start the job
                return
            log.info("idle")
            self.is_ending_idle = True
            self._end_worker()
