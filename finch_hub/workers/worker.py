"""The worker: Celery wakes it, its slots run jobs, and a thread does maintenance, until it is told to end."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil

from finch_hub import errors
from finch_hub.registry import attempts, claims, deployment, jobs, outbox, placement, schema_revisions, values, workers
from finch_hub.registry.database import Database, Session
from finch_hub.settings import Settings
from finch_hub.specs.jobs import FINAL, Job, JobState, check_label
from finch_hub.storage.stores import open_stores
from finch_hub.workers.cleaning import Cleaning
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.hostname import find_hostname
from finch_hub.workers.listening import Listening
from finch_hub.workers.logs.context import set_process_fields
from finch_hub.workers.maintenance import Maintenance
from finch_hub.workers.messaging import app as celery_app
from finch_hub.workers.messaging import broker
from finch_hub.workers.messaging.dispatcher import Dispatcher
from finch_hub.workers.messaging.slot_pool import SlotPool
from finch_hub.workers.metrics.exporter import MetricsExporter
from finch_hub.workers.runs import kinds
from finch_hub.workers.supervision import instruments
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.attempt_source import AttemptSource
from finch_hub.workers.supervision.group import AttemptGroup
from finch_hub.workers.supervision.process import Child
from finch_hub.workers.supervision.slots import Slot, Slots
from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)

_OPEN_CLAIM_SECONDS = 1.0  # until the database is asked again what a claim took
_LOOK_SECONDS = 15.0  # between looks of idle slots, and so what a lost message costs
_OVERDUE = 7  # exit status, as the table of the command line has it: something does not answer
_OVERTIME_SECONDS = 15.0  # after the grace, to end; a database that is silent would take some minutes
_RETRY_SECONDS = 1.0  # at least, until a worker that is not ready tries again
_LOCKED_SECONDS = 0.05  # longer than any transaction that locks the row of a queued job


class Worker:
    """A worker that runs jobs in its slots, by default one on each device, until it is told to end.

    A worker with `is_on_demand` also ends when it has been idle, or when its home was removed.

    Raises:
        InvalidSpec: settings are refused, or a name, queue or label is not valid.
        Conflict: other workers of the home have all devices of this machine.
        AccessDenied: database or broker rejected the password.
        SchemaMismatch: database and code have different schemas.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str | None = None,
        slots: int | None = None,
        queues: Sequence[str] = ("default",),
        labels: Sequence[str] = (),
        is_on_demand: bool = False,
    ) -> None:
        self._settings, self._is_on_demand = settings, is_on_demand
        self._queues, self._labels = tuple(queues), tuple(labels)
        self.name = name or f"{find_hostname()}-{os.getpid()}"
        set_process_fields(worker=self.name)
        _check_names(name=() if name is None else (name,), queue=queues, label=labels)
        url = home_broker.url(settings)
        broker.refuse_open_broker(url, allow_insecure=settings.allow_insecure)
        if settings.broker_url is not None:
            try:
                celery_app.check_broker(url)
            except errors.AccessDenied:
                raise  # whoever starts the worker can change the password
            except errors.Unavailable as error:
                log.warning("start", extra={"error": error})  # the worker waits for the broker
        self._stores = open_stores(settings)
        for problem in self._stores.catalog.problems:
            log.warning("plugins", extra={"error": problem})
        self._folders = WorkFolders(settings.work)
        self._slots = Slots(settings, slots, queues=queues, labels=labels, worker=self.name, is_on_demand=is_on_demand)
        self._attempt_source = AttemptSource(self.name, self._stores, self._folders)
        with self._stores.database.read() as session:
            self._app = celery_app.make_app(
                url, deployment=deployment.find_id(session), queues=self._queues, worker=self.name
            )
        self._app.task(self._wake, name=broker.WAKE)
        self._dispatcher = Dispatcher(settings, self._stores.database, starts_worker=False)
        self._listening = Listening(self._stores)
        self._entry: values.Worker | None = None
        self._maintenance: Maintenance
        self._pool: SlotPool
        self._is_told_to_end = False
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup sets it
        self._ended_jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._overtime = threading.Timer(settings.grace_seconds + _OVERTIME_SECONDS, self._end_overdue)
        self._overtime.daemon = True

    def run(self) -> int:
        """Run until the worker is told to end. Return the exit status.

        Raises:
            Conflict: a worker of that name is running, or took over the name, or the registration was changed.
            SchemaMismatch: the database got another schema meanwhile. The worker has finished its jobs.
            ReplacedDatabase: the database file was replaced or removed meanwhile.
        """
        from celery import signals
        from celery.apps import worker as celery_worker

        # Until Celery handles SIGTERM: a worker that is ended while it starts must leave no broker behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signals.setup_logging.connect(_keep_logging, weak=False)
        celery_worker.safe_say = _keep_logging  # it prints lines that are no records
        # It warns of root, whom messages in pickle would serve. Ours are JSON alone, and containers may have one user.
        celery_worker.check_privileges = _keep_logging
        # At SIGHUP it would start itself anew.
        celery_worker.install_worker_restart_handler = _keep_logging
        celery_worker.install_HUP_not_supported_handler = _keep_logging
        # A second signal ends this worker at once. Celery would first cancel tasks, which this pool cannot.
        at_once = functools.partial(celery_worker._shutdown_handler, sig="SIGQUIT", how="Cold")
        celery_worker.install_worker_term_hard_handler = at_once
        self._handle_hangup()
        with contextlib.ExitStack() as ending:
            ending.callback(self._overtime.cancel)
            ending.callback(self._close)
            if self._settings.broker_url is None:
                home_broker.ensure(self._settings)
            self._entry = entry = self._register()
            gc.freeze()  # imported objects stay for good, so that each collection can skip them
            signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
            consumer = self._app.Worker(
                hostname=self.name,
                concurrency=len(self._slots),
                quiet=True,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                redirect_stdouts=False,
            )
            self._pool = consumer.pool
            follow_up = threading.Thread(target=self._follow_up, name="follow-up", daemon=True)
            follow_up.start()
            ending.callback(follow_up.join, self._settings.grace_seconds)
            ending.callback(self._ended_jobs.put, None)
            self._maintenance = Maintenance(
                entry,
                self._stores,
                self._slots,
                self._attempt_source,
                self._dispatcher,
                is_on_demand=self._is_on_demand,
                end_worker=self._end,
            )
            instruments.SLOTS.set(len(self._slots))
            exporter = MetricsExporter(self._stores, worker=self.name)
            exporter.start()
            ending.callback(exporter.close)
            self._maintenance.start()
            ending.callback(self._maintenance.close)
            self._listening.start()
            ending.callback(self._listening.close)
            ending.callback(consumer.pool.on_stop)
            ending.callback(self._attempt_source.stopping.set)
            log.info("start", extra={"slots": len(self._slots), "queues": ",".join(self._queues)})
            Cleaning(self._stores, self._folders, stopping=self._attempt_source.stopping).start()
            threading.Thread(target=self._look, name="look", daemon=True).start()
            consumer.start()
        if self._maintenance.failure is not None:
            raise self._maintenance.failure  # so that a service manager starts the worker anew, perhaps with new code
        # Celery's own status says that Ctrl-C is a failure.
        return 0 if self._is_told_to_end else int(consumer.exitcode or 0)

    def has_overlooked_work(self) -> bool:
        """Return whether the worker ended because it was idle, although a job for it is queued."""
        if not self._maintenance.is_ending_idle:
            return False
        database = Database(self._settings.database, allow_insecure=self._settings.allow_insecure)
        with contextlib.closing(database), database.read() as session:
            return any(claims.has_fitting(session, slot.capabilities) for slot in self._slots)

    def _register(self) -> values.Worker:
        with self._stores.database.write() as session:
            self._listening.register(session)
            return workers.register(
                session,
                values.WorkerDescription(
                    id=self.name,
                    hostname=find_hostname(),
                    pid=os.getpid(),
                    version=kinds.VERSION,
                    kinds=tuple(kinds.MODULES),
                    schema_revision=schema_revisions.HEAD,
                    slots=len(self._slots),
                    devices=self._slots.refresh_devices(),
                    queues=self._queues,
                    labels=self._labels,
                ),
                replaces=self._find_dead_namesake(session),
            )

    def _close(self) -> None:
        self._attempt_source.close()
        self._slots.close()
        if self._entry is not None:
            with contextlib.suppress(errors.FinchError):
                # So that other workers take the jobs that were handed back at once, not after the next sweep.
                self._dispatcher.dispatch_due()
            with contextlib.suppress(errors.FinchError), self._stores.database.write() as session:
                workers.mark_stopped(session, self.name, self._entry.instance)
            celery_app.remove_own_queue(self._app, self.name)
        self._dispatcher.close()
        self._app.close()
        if self._settings.broker_url is None:
            home_broker.stop(self._settings, worker=self.name)
        self._stores.database.close()
        log.info("end")

    def _find_dead_namesake(self, session: Session) -> str | None:
        """Return the instance of a worker of this name that was killed on this host, if any."""
        for worker in workers.find(session):
            is_namesake = worker.id == self.name and worker.hostname == find_hostname()
            # A container that is started again often has the same name and process id as before.
            if is_namesake and (worker.pid == os.getpid() or not psutil.pid_exists(worker.pid)):
                return worker.instance
        return None

    def _wake(self, job_id: str = "") -> None:
        """Run jobs in a free slot until no job fits. This is the task of a wake-up message."""
        with self._slots.take() as slot:
            attempt = self._attempt_source.claim(slot)
            has_job = attempt is not None and (not job_id or job_id in attempt.job_ids)
            if not has_job and self._slots.differ:
                self._pool.look(self._fill_slot)  # the message may be for a job that fits another slot
            if not has_job and job_id and self._is_left(job_id, slot) and attempt is None:
                # A transaction had locked the row of the job, and claims skip locked rows.
                time.sleep(_LOCKED_SECONDS)
                attempt = self._attempt_source.claim(slot)
            self._run_jobs(attempt, slot)

    def _fill_slot(self) -> None:
        """Run jobs in a free slot until no job fits, without a message."""
        with self._slots.take() as slot:
            self._run_jobs(self._attempt_source.claim(slot), slot)

    def _run_jobs(self, attempt: Attempt | AttemptGroup | None, slot: Slot) -> None:
        """Run an attempt, and what the slot claims after it, until no job fits."""
        while attempt is not None or slot.open_claim is not None:
            if attempt is not None:
                self._run(attempt, slot)
            elif self._attempt_source.stopping.wait(_OPEN_CLAIM_SECONDS):
                break
            attempt = self._attempt_source.claim(slot)

    def _look(self) -> None:
        """Let idle slots look for jobs now and then, whatever became of the messages."""
        readiness = self._attempt_source.readiness
        while True:
            try:
                readiness.check_store()
                with self._stores.database.read() as session:
                    has_queued = outbox.has_queued(session)
                if has_queued:
                    self._pool.look(self._fill_slot)
            except errors.FinchError as error:
                log.warning("look", extra={"error": error})
            except Exception:
                log.exception("look")
            is_ready = readiness.remark is None
            wait = _LOOK_SECONDS if is_ready else min(_LOOK_SECONDS, max(_RETRY_SECONDS, readiness.seconds_until_try()))
            if self._attempt_source.stopping.wait(wait):
                return

    def _run(self, attempt: Attempt | AttemptGroup, slot: Slot) -> None:
        slot.attempt = attempt
        try:
            with instruments.BUSY_SLOTS.track_inprogress():
                attempt.run()
        except Exception:
            # A defect. The worker goes on. The job runs again when its lease has ended.
            log.exception("run", extra={"job_id": ",".join(attempt.job_ids)})
        finally:
            slot.attempt = None
            slot.keep_child(attempt.child if isinstance(attempt.child, Child) else None)
            slot.next_job = attempt.next_job
            for job in attempt.ended_jobs:
                self._ended_jobs.put(job)
            self._maintenance.wake()

    def _is_left(self, job_id: str, slot: Slot) -> bool:
        """Return whether a job waits for a slot like this one. If it needs another worker, wake an idle one."""
        try:
            with self._stores.database.read() as session:
                job = jobs.get(session, job_id)
                misfits = placement.list_misfits(job.requirements, slot.capabilities)
                misfits += placement.list_unreadable(job, slot.capabilities)
                claims_nothing = (
                    self._attempt_source.is_draining
                    or self._attempt_source.stopping.is_set()
                    or self._attempt_source.readiness.remark is not None
                    or attempts.is_passed_on(session, job_id, self.name)
                )
                is_unfit = claims_nothing or bool(misfits)
                is_waiting = job.state is JobState.QUEUED
                idle = workers.find_idle(session) if is_unfit and is_waiting else []
            others = [worker for worker in idle if worker.id != self.name]
            if others and (name := self._dispatcher.wake_fitting(job, others)) is not None:
                log.info("pass_on", extra={"job_id": job_id, "to_worker": name})
            return is_waiting and not is_unfit
        except errors.NotFound as error:
            log.warning("drop", extra={"job_id": job_id, "error": error})
        except errors.FinchError as error:
            log.warning("pass_on", extra={"job_id": job_id, "error": error})
        except Exception:  # a defect, which must not cost the job that the slot has just claimed
            log.exception("pass_on", extra={"job_id": job_id})
        return False

    def _end(self) -> None:
        if not self._attempt_source.stopping.is_set():
            # Sent to the main thread, because a signal to another one does not interrupt its wait for messages.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _handle_hangup(self) -> None:
        """End at SIGHUP as at SIGTERM, unless the worker was started to survive it."""
        if not self._ignores_hangup:
            signal.signal(signal.SIGHUP, lambda *_: self._end())
        else:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_shutting_down(self, sig: str = "SIGTERM", how: str = "", **_: Any) -> None:
        """Hand the jobs back at the first signal, and end at once at the second, or soon after the grace.

        Celery's signal handler calls this.
        """
        if self._attempt_source.stopping.is_set() or how == "Cold":
            self._end_at_once(f"{sig} came", status=128 + signal.Signals[sig])
        else:
            self._is_told_to_end = True
            self._attempt_source.stopping.set()
            self._overtime.start()

    def _end_overdue(self) -> None:
        self._end_at_once("something did not answer in the grace", status=_OVERDUE)

    def _end_at_once(self, why: str, *, status: int) -> None:
        """End without waiting for children, which may hang. Then the orphan cleanup kills them."""
        try:
            log.error("end", extra={"error": f"{why}, so jobs run again when their leases have ended"})
            logging.shutdown()  # writes the last lines
        finally:
            os._exit(status)

    def _follow_up(self) -> None:
        """Remove the files of jobs that ended, in a thread that no job waits for."""
        while (job := self._ended_jobs.get()) is not None:
            if job.state in FINAL:
                self._folders.end(job.id)


def _keep_logging(*_: Any, **__: Any) -> None:
    """Do nothing, where Celery would otherwise set up a log of its own, or print what it does."""


def _check_names(**options: Sequence[str]) -> None:
    problems = []
    for option, texts in options.items():
        for text in texts:
            try:
                check_label(text)
            except ValueError as error:
                problems.append(errors.Problem(where=f"--{option}", what=str(error)))
    if problems:
        raise errors.InvalidSpec(problems, subject="worker")
