"""The worker process: Celery wakes it, its slots run jobs, its keeper keeps house, until it is told to end."""

from __future__ import annotations

import contextlib
import gc
import logging
import logging.handlers
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from finch_hub import errors
from finch_hub import settings as settings_module
from finch_hub.registry import attempts, jobs, schema, values, workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import FINAL, Job, JobState, check_label
from finch_hub.storage.redaction import Redactor
from finch_hub.storage.stores import open_stores
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.embedded import code_version
from finch_hub.workers.embedded import worker as home_worker
from finch_hub.workers.maintenance import Keeper
from finch_hub.workers.messaging import app as celery_app
from finch_hub.workers.messaging import broker
from finch_hub.workers.messaging.dispatcher import Dispatcher
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.claims import Claims
from finch_hub.workers.supervision.group import Gang
from finch_hub.workers.supervision.process import Child
from finch_hub.workers.supervision.slots import Slot, Slots
from finch_hub.workers.supervision.work_folders import WorkFolders

if TYPE_CHECKING:
    from finch_hub.registry.database import Session

log = logging.getLogger(__name__)

_LOCKED_SECONDS = 0.05  # for the transaction that holds a queued job's row to end; ours are shorter than that


class Worker:
    """One worker: `slots` jobs at a time, from the given queues, until it is told to end.

    Raises:
        InvalidSpec: settings that are refused; queues or labels that are no names.
        AccessDenied: database or broker want another password.
        Conflict: a worker of that name is alive.
        SchemaMismatch: the database's schema is not this code's.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str | None = None,
        slots: int | None = None,
        queues: Sequence[str] = ("default",),
        labels: Sequence[str] = (),
        on_demand: bool = False,
    ) -> None:
        self._settings, self._on_demand = settings, on_demand
        self._queues, self._labels = tuple(queues), tuple(labels)
        _check_names(name=() if name is None else (name,), queue=queues, label=labels)
        url = settings.broker_url.get_secret_value() if settings.broker_url else home_broker.url(settings)
        broker.refuse_open_broker(url, allow_insecure=settings.allow_insecure)
        if settings.broker_url is not None:
            try:
                celery_app.check_broker(url)
            except errors.AccessDenied:
                raise
            except errors.Unavailable as error:
                log.warning("action=start error=%s", error)  # and waited for
        self._stores = open_stores(settings)
        for problem in self._stores.catalog.problems:
            log.warning("action=plugins error=%s", problem)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._folders = WorkFolders(settings.work)
        self._slots = Slots(settings, slots)
        self._claims = Claims(self.name, self._stores, self._folders, queues=self._queues, labels=self._labels)
        self._app = celery_app.make_app(url, queues=self._queues, worker=self.name)
        self._app.task(self._wake, name=celery_app.WAKE)
        self._dispatcher = Dispatcher(settings, self._stores.database, starts_worker=False)
        self._entry: values.Worker | None = None
        self._keeper: Keeper
        self._news: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until told to end; returns the exit status."""
        from celery import signals

        # Until Celery listens to it: whoever ends us then must find ended what we began, the broker above all.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.ExitStack() as ending:
            ending.callback(self._close)
            if self._settings.broker_url is None:
                home_broker.ensure(self._settings)
            self._entry = entry = self._register()
            gc.freeze()  # what the imports made stays for good, so the collector need not look at it again and again
            signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
            signals.worker_ready.connect(self._on_ready, weak=False)
            teller = threading.Thread(target=self._follow_up, name="follow-up", daemon=True)
            teller.start()
            ending.callback(teller.join, self._settings.grace_seconds)
            ending.callback(self._news.put, None)
            self._keeper = Keeper(
                entry,
                self._stores,
                self._folders,
                self._slots,
                self._claims,
                self._dispatcher,
                on_demand=self._on_demand,
                end=self._end,
            )
            self._keeper.start()
            ending.callback(self._keeper.close)
            ending.callback(self._claims.stopping.set)
            log.info("action=start worker=%s slots=%d queues=%s", self.name, len(self._slots), ",".join(self._queues))
            consumer = self._app.Worker(
                hostname=self.name,
                concurrency=len(self._slots),
                quiet=True,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                redirect_stdouts=False,
            )
            consumer.start()
            return int(consumer.exitcode or 0)

    def overlooked_work(self) -> bool:
        """Tell whether it left for want of work while there is some for it; one that was told to end wants none."""
        if not self._keeper.left_idle:
            return False
        database = Database(self._settings.database, allow_insecure=self._settings.allow_insecure)
        try:
            with database.read() as session:
                queued = jobs.find(session, states=[JobState.QUEUED], limit=100)
        finally:
            database.close()
        slots = [self._claims.capabilities(slot) for slot in self._slots]
        return any(not attempts.misfits(job.requirements, slot) for job in queued for slot in slots)

    def _register(self) -> values.Worker:
        with self._stores.database.write() as session:
            return workers.register(
                session,
                self.name,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                version=metadata.version("finch-hub"),
                schema_revision=schema.HEAD,
                slots=len(self._slots),
                devices=self._slots.report(),
                queues=self._queues,
                labels=self._labels,
                replaces=self._dead_namesake(session),
            )

    def _close(self) -> None:
        self._claims.close()
        self._slots.close()
        if self._entry is not None:
            with contextlib.suppress(errors.FinchError):
                # What was handed back is to be rung for at once, not when the next sweep finds it.
                self._dispatcher.dispatch_due()
            with contextlib.suppress(errors.FinchError), self._stores.database.write() as session:
                workers.leave(session, self.name, self._entry.instance)
            celery_app.remove_own_queue(self._app, self.name)
        self._dispatcher.close()
        self._app.close()
        if self._settings.broker_url is None:
            home_broker.end_if_last(self._settings)
        self._stores.database.close()
        log.info("action=end worker=%s", self.name)

    def _dead_namesake(self, session: Session) -> str | None:
        """Return the instance of a worker of our name that ran on this host and was killed, if there is one."""
        for worker in workers.find(session):
            ours = worker.id == self.name and worker.hostname == socket.gethostname()
            # A container that is started again often has the same name and process id as before.
            if ours and (worker.pid == os.getpid() or not psutil.pid_exists(worker.pid)):
                return worker.instance
        return None

    def _wake(self, job_id: str = "") -> None:
        """Run jobs until none is left that fits; the task that a message of Celery names."""
        with self._slots.take() as slot:
            attempt = self._claims.claim(slot)
            left = bool(job_id) and (attempt is None or job_id not in attempt.job_ids) and self._is_left(job_id, slot)
            if left and attempt is None:
                # Somebody was writing to its row, which claims do not wait for.
                time.sleep(_LOCKED_SECONDS)
                attempt = self._claims.claim(slot)
            while attempt is not None:
                self._run(attempt, slot)
                attempt = self._claims.claim(slot)

    def _run(self, attempt: Attempt | Gang, slot: Slot) -> None:
        slot.attempt = attempt
        try:
            attempt.run()
        except Exception:
            # A defect of ours. The lease will end and the job be tried again; the worker lives on.
            log.exception("action=run job_id=%s", ",".join(attempt.job_ids))
        finally:
            slot.attempt = None
            slot.keep_child(attempt.child if isinstance(attempt.child, Child) else None)
            slot.claimed = attempt.next
            for job in attempt.all_ended:
                self._news.put(job)
            self._keeper.nudge()

    def _is_left(self, job_id: str, slot: Slot) -> bool:
        """Pass a wake-up on if this slot is not for its job; return whether it is, and the job still waits."""
        try:
            with self._stores.database.read() as session:
                job = jobs.get(session, job_id)
                capabilities = self._claims.capabilities(slot)
                declined = self._claims.draining or attempts.misfits(job.requirements, capabilities)
                waits = job.state is JobState.QUEUED
                found = workers.find(session) if declined and waits else []
            if found:
                told = self._dispatcher.pass_on(job, found)
                log.info("action=pass_on job_id=%s workers=%s", job_id, ",".join(told))
            return waits and not declined
        except errors.NotFound as error:
            log.warning("action=drop job_id=%s error=%s", job_id, error)
        except errors.FinchError as error:
            log.warning("action=pass_on job_id=%s error=%s", job_id, error)
        return False

    def _end(self) -> None:
        if not self._claims.stopping.is_set():
            # To the main thread, or its wait for messages would not be interrupted.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_ready(self, **_: Any) -> None:
        """Look for work once for every slot: what was queued while nobody was here may have been rung for long ago."""
        with contextlib.suppress(errors.Unavailable):
            self._dispatcher.wake(self.name, times=len(self._slots))

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        """Run by Celery in its signal handler: the first time jobs are handed back, the second time all ends."""
        if self._claims.stopping.is_set() or how == "Cold":
            for slot in self._slots:
                slot.kill()
            os._exit(1)
        self._claims.stopping.set()

    def _follow_up(self) -> None:
        """Tidy up after every job that ended and tell the listeners, in a thread of its own: no job waits for these."""
        while (job := self._news.get()) is not None:
            if job.state in FINAL:
                self._folders.end(job.id)
            for name, listener in self._stores.catalog.listeners.items():
                try:
                    listener.load()(job)
                except (Exception, SystemExit):  # a listener is only told; what it does of it is its own affair
                    log.exception("action=listener name=%s job_id=%s", name, job.id)


def start(
    settings: Settings,
    *,
    name: str | None = None,
    slots: int | None = None,
    queues: Sequence[str] = ("default",),
    labels: Sequence[str] = (),
) -> int:
    """Run a worker in the foreground until it is told to end; returns the exit status."""
    _configure_logging(Redactor.of(settings), logging.StreamHandler())
    return Worker(settings, name=name, slots=slots, queues=queues, labels=labels).run()


def main() -> int:
    """Run the home's own worker, unless one runs: what `home_worker.ensure` starts."""
    settings = settings_module.load()
    lock = home_worker.life_lock(settings)
    try:
        lock.acquire(timeout=1.0)
    except home_worker.Timeout:
        running = home_worker.read_record(settings)
        if running is not None and running.get("code") == code_version.current():
            return 0  # several clients started one at once
        try:
            lock.acquire(timeout=settings.grace_seconds + 10)  # of one of older code, which hands its job back
        except home_worker.Timeout:
            return 0
    try:
        home_worker.announce(settings)
        file = settings.home / "logs" / "worker.log"
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=5 * 2**20, backupCount=1)
        _configure_logging(Redactor.of(settings), handler)
        worker = Worker(settings, name=f"{socket.gethostname()}-home-{os.getpid()}", on_demand=True)
        status = worker.run()
    except errors.FinchError as error:
        log.error("action=start error=%s", error)
        return 1
    finally:
        lock.release()
    # Whoever submitted while the lock was still held saw a worker. It has committed by now, so this look finds its job.
    if worker.overlooked_work():
        home_worker.ensure(settings)
    return status


def _configure_logging(redactor: Redactor, handler: logging.Handler) -> None:
    from celery import signals

    handler.addFilter(redactor)
    handler.setFormatter(logging.Formatter("%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # What no line shows is not to be looked up for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # where each line was logged; the documented way to leave it
    for name in ("celery.app.trace", "celery.worker.strategy", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery leaves logging alone as soon as somebody listens to this.
    signals.setup_logging.connect(_leave_logging, weak=False)


def _leave_logging(**_: Any) -> None:
    """Tell Celery that logging is configured."""


def _check_names(**given: Sequence[str]) -> None:
    problems = []
    for option, texts in given.items():
        for text in texts:
            try:
                check_label(text)
            except ValueError as error:
                problems.append(errors.Problem(where=f"--{option}", what=str(error)))
    if problems:
        raise errors.InvalidSpec(problems, subject="worker")


if __name__ == "__main__":
    sys.exit(main())
