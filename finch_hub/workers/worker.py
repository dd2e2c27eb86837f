"""The worker process: slots that run jobs, and a keeper that sweeps, reports and knows when to leave."""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import logging
import logging.handlers
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import psutil

from finch_hub import errors
from finch_hub import settings as settings_module
from finch_hub.registry import attempts, jobs, schema, values, workers
from finch_hub.settings import Settings
from finch_hub.specs.jobs import FINAL, Job, JobState, check_label
from finch_hub.workers import app as celery_app
from finch_hub.workers import broker, clock, devices, embedded
from finch_hub.workers.dispatch import Dispatcher
from finch_hub.workers.folders import WorkFolders
from finch_hub.workers.gang import Gang, Seat
from finch_hub.workers.lease import Leases
from finch_hub.workers.process import Child
from finch_hub.workers.redaction import Redactor
from finch_hub.workers.stores import open_stores
from finch_hub.workers.supervisor import Attempt

if TYPE_CHECKING:
    from finch_hub.registry.database import Session

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
_DAY_SECONDS = 86_400
_USABLE = 0.9  # of main memory: the system and the worker need some too


class Slot:
    """Place for one job at a time, or one gang, on one device; keeps the child of its last job, warm for the next.

    Attributes:
        share: of the device's memory, in bytes: slots of one device divide it.

    """

    def __init__(self, device: devices.Device, share: int) -> None:
        self.device, self.share = device, share
        self.child: Child | None = None
        self.attempt: Attempt | Gang | None = None
        self.claimed: tuple[Job, float] | None = None  # for it, with the moment that it was asked for

    def take_child(self, home: str) -> Child:
        """Return the warm child, or a new one."""
        child, self.child = self.child, None
        if child is not None and child.alive:
            return child
        if child is not None:
            child.kill()
        return Child({**self.device.environment, "FINCH_HOME": home})

    def drop_child(self) -> None:
        """End the warm child."""
        child, self.child = self.child, None
        if child is not None:
            child.end(grace=0.5)


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
        url = settings.broker_url.get_secret_value() if settings.broker_url else embedded.broker_url(settings)
        broker.refuse_open_broker(url, allow_insecure=settings.allow_insecure)
        if settings.broker_url is not None:
            try:
                celery_app.check_broker(url)
            except errors.AccessDenied:
                raise
            except errors.Unavailable as error:
                log.warning("action=start error=%s", error)  # and waited for
        self._redactor = Redactor.of(settings)
        self._stores = open_stores(settings)
        for problem in self._stores.catalogue.problems:
            log.warning("action=plugins error=%s", problem)
        self._leases = Leases(self._stores.database, settings)
        self._folders = WorkFolders(settings.home)
        self._memory_limit = settings.memory_bytes or int(_USABLE * devices.main_memory())
        found = devices.find_devices()
        self._slots = _make_slots(found, slots or len(found), settings)
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()  # the last used is the warmest
        for slot in self._slots:
            self._free.put(slot)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._app = celery_app.make_app(url, queues=self._queues, worker=self.name)
        self._app.task(self._wake, name=celery_app.WAKE)
        self._dispatcher = Dispatcher(settings, self._stores.database, starts_worker=False)
        self._stopping = threading.Event()
        self._draining = False
        self._ended = threading.Event()
        self._nudged = threading.Event()
        self._news: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy_until = clock.elapsed()
        self._instance = ""

    def run(self) -> int:
        """Serve until told to end; returns the exit status."""
        from celery import signals

        settings = self._settings
        if settings.broker_url is None:
            embedded.ensure_broker(settings)
        with self._stores.database.write() as session:
            entry = workers.register(
                session,
                self.name,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                version=metadata.version("finch-hub"),
                schema_revision=schema.HEAD,
                slots=len(self._slots),
                devices=[_value(slot) for slot in self._slots],
                queues=self._queues,
                labels=self._labels,
                replaces=self._dead_namesake(session),
            )
        self._instance = entry.instance
        gc.freeze()  # what the imports made stays for good, so the collector need not look through it again and again
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        keeper.start()
        teller = threading.Thread(target=self._follow_up, name="follow-up", daemon=True)
        teller.start()
        log.info("action=start worker=%s slots=%d queues=%s", self.name, len(self._slots), ",".join(self._queues))
        try:
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
        finally:
            self._stopping.set()
            self._ended.set()
            self._nudged.set()
            keeper.join()
            self._news.put(None)
            teller.join(settings.grace_seconds)
            self._leases.close()
            for slot in self._slots:
                slot.drop_child()
            with contextlib.suppress(errors.FinchError):
                # What was handed back is to be rung for at once, not when the next sweep finds it.
                self._dispatcher.dispatch_due()
            with contextlib.suppress(errors.FinchError), self._stores.database.write() as session:
                workers.leave(session, self.name, self._instance)
            self._dispatcher.close()
            celery_app.remove_own_queue(self._app, self.name)
            self._app.close()
            if settings.broker_url is None:
                embedded.end_broker_if_last(settings)
            self._stores.database.close()
            log.info("action=end worker=%s", self.name)

    def _dead_namesake(self, session: Session) -> str | None:
        """Return the instance of a worker of our name that ran on this host and was killed, if there is one."""
        for worker in workers.find(session):
            if worker.id == self.name and worker.hostname == socket.gethostname() and not psutil.pid_exists(worker.pid):
                return worker.instance
        return None

    def _wake(self, job_id: str = "") -> None:
        """Run jobs until none is left that fits; the task that a message of Celery names."""
        with self._slot() as slot:
            attempt = self._claim(slot)
            if job_id and (attempt is None or job_id not in attempt.job_ids):
                self._pass_on(job_id, slot)
            while attempt is not None:
                self._run(attempt, slot)
                attempt = self._claim(slot)

    def _run(self, attempt: Attempt | Gang, slot: Slot) -> None:
        slot.attempt = attempt
        try:
            attempt.run()
        except Exception:
            # A defect of ours. The lease will end and the job be tried again; the worker lives on.
            log.exception("action=run job_id=%s", ",".join(attempt.job_ids))
        finally:
            slot.attempt = None
            slot.child = attempt.child if isinstance(attempt.child, Child) else None
            if slot.child is not None:
                slot.child.idle_since = clock.elapsed()
            self._busy_until = clock.elapsed()
            slot.claimed = attempt.next
            for job in attempt.all_ended:
                self._news.put(job)
            self._nudged.set()  # its dependents may be due

    def _pass_on(self, job_id: str, slot: Slot) -> None:
        """See to it that a job whose wake-up came here is not left waiting because it does not fit this slot."""
        try:
            with self._stores.database.read() as session:
                job = jobs.get(session, job_id)
                misfit = job.state is JobState.QUEUED and attempts.misfits(job.requirements, self._capabilities(slot))
                found = workers.find(session) if misfit else []
            if found:
                told = self._dispatcher.pass_on(job, found)
                log.info("action=pass_on job_id=%s workers=%s", job_id, ",".join(told))
        except errors.NotFound as error:
            log.warning("action=drop job_id=%s error=%s", job_id, error)
        except errors.FinchError as error:
            log.warning("action=pass_on job_id=%s error=%s", job_id, error)

    def _claim(self, slot: Slot) -> Attempt | Gang | None:
        claimed, slot.claimed = slot.claimed, None
        if claimed is None:
            asked = clock.elapsed()
            try:
                with self._stores.database.write() as session:
                    job = self._claim_in(session, slot, slot.child)
            except errors.Unavailable as error:
                log.warning("action=claim error=%s", error)
                return None  # whatever is due is rung for again
            if job is None:
                return None
            claimed = job, asked
        take_child = functools.partial(slot.take_child, str(self._settings.home))
        companions = self._claim_companions(slot, claimed[0])
        if not companions:
            return self._attempt(
                slot, *claimed, child=take_child, claim_next=lambda session, child: self._claim_in(session, slot, child)
            )
        gang = Gang(take_child, 1 + len(companions))
        gang.attempts = [
            self._attempt(slot, *member, child=functools.partial(_same, seat), claim_next=_claim_nothing, shared=True)
            for member, seat in zip([claimed, *companions], gang.seats, strict=True)
        ]
        return gang

    def _attempt(self, slot: Slot, job: Job, asked: float, **options: Any) -> Attempt:
        limit = self._memory_limit
        return Attempt(
            job,
            asked=asked,
            stores=self._stores,
            leases=self._leases,
            folders=self._folders,
            stopping=self._stopping,
            redactor=self._redactor,
            memory_limit=min(limit, slot.share) if slot.device.kind == "cpu" else limit,
            **options,
        )

    def _claim_companions(self, slot: Slot, leader: Job) -> list[tuple[Job, float]]:
        """Claim what may be trained in one step with a job; on a processor, where the engine does that."""
        size = self._settings.gang_size
        if not leader.requirements.together or slot.device.kind != "cpu" or size == 1 or self._stopping.is_set():
            return []
        asked = clock.elapsed()
        try:
            with self._stores.database.write() as session:
                taken = attempts.claim_companions(
                    session,
                    leader,
                    worker=self.name,
                    lease_seconds=self._settings.lease_seconds,
                    capabilities=self._capabilities(slot),
                    limit=size - 1,
                )
        except errors.Unavailable as error:
            log.warning("action=claim_companions job_id=%s error=%s", leader.id, error)
            return []
        return [(job, asked) for job in taken]

    def _capabilities(self, slot: Slot) -> values.Capabilities:
        return values.Capabilities(
            device=slot.device.kind, memory_bytes=slot.share, queues=self._queues, labels=self._labels
        )

    def _claim_in(self, session: Session, slot: Slot, child: Child | Seat | None) -> Job | None:
        if self._stopping.is_set() or self._draining:
            return None
        return attempts.claim(
            session,
            worker=self.name,
            lease_seconds=self._settings.lease_seconds,
            capabilities=self._capabilities(slot),
            warm_base=child.warm_base if child else None,
        )

    @contextlib.contextmanager
    def _slot(self) -> Iterator[Slot]:
        slot = self._free.get()  # never waits: there are as many threads as slots
        try:
            yield slot
        finally:
            self._free.put(slot)

    def _keep(self) -> None:
        """Sweep, report and tidy, once a sweep and whenever a job ended, until the worker ends."""
        heard = swept = float("-inf")
        while not self._ended.is_set():
            now = clock.elapsed()
            try:
                if now - heard >= self._settings.heartbeat_seconds:
                    heard = now
                    self._report()
                if now - swept >= self._settings.sweep_seconds:
                    swept = now
                    self._sweep()
                self._dispatcher.dispatch_due()
                self._let_idle_children_go(now)
                self._leave_if_idle(now)
            except errors.FinchError as error:
                log.warning("action=keep error=%s", error)
            except Exception:
                log.exception("action=keep")
            self._nudged.wait(min(1.0, self._settings.sweep_seconds, self._settings.heartbeat_seconds))
            self._ended.wait(_PAUSE_SECONDS)  # jobs that end in quick succession are one reason to look
            self._nudged.clear()

    def _report(self) -> None:
        for slot in self._slots:
            slot.device = devices.refresh(slot.device)
        current = [_value(slot) for slot in self._slots]
        try:
            with self._stores.database.write() as session:
                told = workers.heartbeat(session, self.name, self._instance, current)
        except errors.Unavailable:
            raise
        except errors.Conflict as error:
            log.error("action=heartbeat error=%s", error)
            told = "stopping"
        self._draining = told != "active"
        if told == "stopping" or (told == "draining" and not self._running()):
            self._end()

    def _sweep(self) -> None:
        settings = self._settings
        if settings.broker_url is None:
            embedded.ensure_broker(settings)
        policy = values.RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)
        with self._stores.database.write() as session:
            for job in attempts.expire_leases(session, policy):
                log.warning("action=expire job_id=%s attempt=%d state=%s", job.id, job.attempts, job.state.value)
        if settings.history_days is not None or settings.history_jobs is not None:
            days = settings.history_days
            with self._stores.database.write() as session:
                pruned = jobs.prune(
                    session,
                    older_than=None if days is None else days * _DAY_SECONDS,
                    beyond=settings.history_jobs,
                )
            if pruned:
                log.info("action=prune jobs=%d", len(pruned))
        self._remove_finished_folders()

    def _remove_finished_folders(self) -> None:
        """Remove the folders of jobs that ended elsewhere, or were deleted."""
        if left := self._folders.jobs():
            with self._stores.database.read() as session:
                needed = jobs.unfinished(session, left)
            for job_id in set(left) - needed:
                self._folders.end(job_id)

    def _let_idle_children_go(self, now: float) -> None:
        with contextlib.suppress(queue.Empty):
            slots = [self._free.get_nowait() for _ in range(self._free.qsize())]
            for slot in reversed(slots):
                child = slot.child
                if child is not None and now - (child.idle_since or now) > self._settings.warm_seconds:
                    slot.drop_child()
                self._free.put(slot)

    def _leave_if_idle(self, now: float) -> None:
        if not self._on_demand:
            return
        if not embedded.has_home(self._settings):
            log.warning("action=leave worker=%s error=its home was removed", self.name)
            self._end()
        elif self._running():
            self._busy_until = now
        elif now - self._busy_until > self._settings.idle_seconds:
            log.info("action=idle worker=%s", self.name)
            self._end()

    def _running(self) -> bool:
        return any(slot.attempt is not None for slot in self._slots)

    def _end(self) -> None:
        if not self._stopping.is_set():
            # To the main thread, or its wait for messages would not be interrupted.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_ready(self, **_: Any) -> None:
        """Look for work once for every slot: what was queued while nobody was here may have been rung for long ago."""
        with contextlib.suppress(errors.Unavailable):
            self._dispatcher.wake(self.name, times=len(self._slots))

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        """Run by Celery in its signal handler: the first time jobs are handed back, the second time all ends."""
        if self._stopping.is_set() or how == "Cold":
            for slot in self._slots:
                for child in (slot.child, slot.attempt.child if slot.attempt else None):
                    if child is not None:
                        child.kill()
            os._exit(1)
        self._stopping.set()

    def _follow_up(self) -> None:
        """Tidy up after every job that ended and tell the listeners, in a thread of its own: no job waits for these."""
        while (job := self._news.get()) is not None:
            if job.state in FINAL:
                self._folders.end(job.id)
            for name, listener in self._stores.catalogue.listeners.items():
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
    """Run the home's own worker, unless one runs: what `embedded.ensure_worker` starts."""
    settings = settings_module.load()
    lock = embedded.worker_lock(settings)
    try:
        lock.acquire(timeout=1.0)
    except embedded.Timeout:
        running = embedded.running_worker(settings)
        if running is not None and running.get("code") == embedded.code_version():
            return 0  # several clients started one at once
        try:
            lock.acquire(timeout=settings.grace_seconds + 10)  # of one of older code, which hands its job back
        except embedded.Timeout:
            return 0
    try:
        embedded.announce_worker(settings)
        file = settings.home / "logs" / "worker.log"
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=5 * 2**20, backupCount=1)
        _configure_logging(Redactor.of(settings), handler)
        status = Worker(settings, name=f"{socket.gethostname()}-home-{os.getpid()}", on_demand=True).run()
    except errors.FinchError as error:
        log.error("action=start error=%s", error)
        return 1
    finally:
        lock.release()
    # Whoever submitted while the lock was still held saw a worker. It has committed by now, so this look finds its job.
    if _work_is_left(settings):
        embedded.ensure_worker(settings)
    return status


def _work_is_left(settings: Settings) -> bool:
    from finch_hub.registry import jobs
    from finch_hub.registry.database import Database
    from finch_hub.specs.jobs import JobState

    database = Database(settings.database)
    try:
        with database.read() as session:
            return bool(jobs.find(session, states=[JobState.QUEUED], limit=1))
    finally:
        database.close()


def _configure_logging(redactor: Redactor, handler: logging.Handler) -> None:
    from celery import signals

    handler.addFilter(redactor)
    handler.setFormatter(logging.Formatter("%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # What no line shows is not to be looked up for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
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


def _make_slots(found: Sequence[devices.Device], count: int, settings: Settings) -> list[Slot]:
    chosen = [found[number % len(found)] for number in range(count)]
    sharing = collections.Counter((device.kind, device.index) for device in chosen)
    slots = []
    for device in chosen:
        share = device.memory_bytes // sharing[device.kind, device.index]
        if device.kind == "cpu":
            share = min(int(_USABLE * share), settings.memory_bytes or share)
        slots.append(Slot(device, share))
    return slots


def _same(seat: Seat) -> Seat:
    return seat


def _claim_nothing(session: Session, child: Child | Seat | None) -> None:
    """Claim nothing: a gang's slot is free when all of its members have ended."""


def _value(slot: Slot) -> values.Device:
    device = slot.device
    return values.Device(
        kind=device.kind, name=device.name, memory_bytes=slot.share, free_bytes=min(slot.share, device.free_bytes)
    )


if __name__ == "__main__":
    sys.exit(main())
