"""What a worker does beside its jobs: report, sweep, ring for what is due, and know when to leave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import attempts, jobs, values, workers
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.embedded import home
from finch_hub.workers.supervision import clock

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher
    from finch_hub.workers.supervision.claims import Claims
    from finch_hub.workers.supervision.slots import Slots
    from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
_DAY_SECONDS = 86_400


class Keeper:
    """Keeps house in a thread of its own, from `start` to `close`.

    Attributes:
        left_idle: whether it ended the worker because there was nothing to do.

    Args:
        entry: the worker's, as it was registered.
        on_demand: whether the worker is to leave when it has been idle for long, or its home is gone.
        end: called when the worker is to end.

    """

    def __init__(
        self,
        entry: values.Worker,
        stores: Stores,
        folders: WorkFolders,
        slots: Slots,
        claims: Claims,
        dispatcher: Dispatcher,
        *,
        on_demand: bool,
        end: Callable[[], None],
    ) -> None:
        self._entry, self._stores, self._folders = entry, stores, folders
        self._slots, self._claims, self._dispatcher = slots, claims, dispatcher
        self._on_demand, self._end, self._settings = on_demand, end, stores.settings
        self._ended, self._nudged = threading.Event(), threading.Event()
        self._busy_until = clock.elapsed()
        self.left_idle = False
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def nudge(self) -> None:
        """Let it look at once: a job has ended, so its dependents may be due."""
        self._busy_until = clock.elapsed()
        self._nudged.set()

    def close(self) -> None:
        """End, with what it is just doing."""
        self._ended.set()
        self._nudged.set()
        self._thread.join()

    def _keep(self) -> None:
        """Sweep, report and tidy, once a sweep and whenever a job ended, until the worker ends."""
        settings = self._settings
        heard = swept = float("-inf")
        while not self._ended.is_set():
            now = clock.elapsed()
            try:
                if now - heard >= settings.heartbeat_seconds:
                    heard = now
                    self._report()
                if now - swept >= settings.sweep_seconds:
                    swept = now
                    self._sweep()
                self._dispatcher.dispatch_due()
                self._slots.drop_idle_children(older_than=settings.warm_seconds)
                self._leave_if_idle(now)
            except errors.FinchError as error:
                log.warning("action=keep error=%s", error)
            except Exception:
                log.exception("action=keep")
            self._nudged.wait(min(1.0, settings.sweep_seconds, settings.heartbeat_seconds))
            self._ended.wait(_PAUSE_SECONDS)  # jobs that end in quick succession are one reason to look
            self._nudged.clear()

    def _report(self) -> None:
        current = self._slots.report()
        try:
            with self._stores.database.write() as session:
                told = workers.heartbeat(session, self._entry.id, self._entry.instance, current)
        except errors.Unavailable:
            raise
        except errors.Conflict as error:
            log.error("action=heartbeat error=%s", error)
            told = "stopping"
        self._claims.draining = told != "active"
        if told == "stopping" or (told == "draining" and not self._slots.busy):
            self._end()

    def _sweep(self) -> None:
        settings = self._settings
        if settings.broker_url is None:
            home_broker.ensure(settings)
        policy = values.RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)
        with self._stores.database.write() as session:
            for job in attempts.expire_leases(session, policy):
                log.warning("action=expire job_id=%s attempt=%d state=%s", job.id, job.attempts, job.state.value)
        self._prune()
        self._remove_finished_folders()

    def _prune(self) -> None:
        days, most = self._settings.history_days, self._settings.history_jobs
        if days is None and most is None:
            return
        with self._stores.database.write() as session:
            older_than = None if days is None else days * _DAY_SECONDS
            pruned = jobs.prune(session, older_than=older_than, beyond=most)
        if pruned:
            log.info("action=prune jobs=%d", len(pruned))

    def _remove_finished_folders(self) -> None:
        """Remove the folders of jobs that ended elsewhere, or were deleted."""
        if left := self._folders.jobs():
            with self._stores.database.read() as session:
                needed = jobs.unfinished(session, left)
            for job_id in set(left) - needed:
                self._folders.end(job_id)

    def _leave_if_idle(self, now: float) -> None:
        if not self._on_demand:
            return
        if not home.exists(self._settings):
            log.warning("action=leave worker=%s error=its home was removed", self._entry.id)
            self._end()
        elif self._slots.busy:
            self._busy_until = now
        elif now - self._busy_until > self._settings.idle_seconds:
            log.info("action=idle worker=%s", self._entry.id)
            self.left_idle = True
            self._end()
