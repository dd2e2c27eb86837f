"""Wake-ups, registration and maintenance of a worker. Its jobs are tested with real processes."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from celery.worker import state as celery_state
from support import registry, services
from support.children import FakeChild
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.registry import jobs, values, workers
from finch_hub.registry.database import Database, Session
from finch_hub.registry.tables import jobs as table
from finch_hub.specs.jobs import ExportSpec, Job, Requirements
from finch_hub.workers import worker as module
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.messaging.slot_pool import SlotPool
from finch_hub.workers.supervision import devices
from finch_hub.workers.supervision.slots import Slot
from finch_hub.workers.worker import Worker

SPEC = ExportSpec(adapter="finch", format="peft", out="/nowhere")


@pytest.fixture
def database(postgresql_databases: services.Databases) -> Iterator[Database]:
    """A database on PostgreSQL, where claims skip locked rows. On SQLite they wait."""
    url = postgresql_databases.new()
    made = Database(url, allow_insecure=True)
    yield made
    made.close()
    postgresql_databases.drop(url)


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(settings.load(home=tmp_path, database_url=database.url.render_as_string(hide_password=False)))
    yield made
    made._overtime.cancel()
    made._attempt_source.close()
    made._slots.close()
    made._dispatcher.close()
    made._stores.database.close()
    home_broker.stop(made._settings, worker=made.name)  # a dispatcher may have started it


class Request:
    """A message that was fetched, and keeps a slot busy."""


def register(database: Database, name: str) -> values.Worker:
    """Register another worker, whose slot fits every job without labels."""
    device = values.Device(kind="cpu", name="cpu", memory_bytes=2**40, free_bytes=2**40)
    description = values.WorkerDescription(
        id=name, hostname="elsewhere", pid=1, version="1", schema_revision="1", devices=(device,)
    )
    with database.write() as session:
        return workers.register(session, description)


def test_job_whose_row_is_locked_at_its_wake_up_is_claimed_after_the_lock(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further message for the job is sent."""
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    ran: list[str] = []
    monkeypatch.setattr(worker, "_run", lambda attempt, slot: ran.extend(attempt.job_ids))
    with contextlib.ExitStack() as lock:
        locking = lock.enter_context(database.write())
        locking.execute(sa.select(table.c.id).where(table.c.id == job.id).with_for_update())
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: lock.close()))
        worker._wake(job.id)
    assert ran == [job.id]


def test_worker_replaces_a_killed_one_with_its_name_and_process_id(worker: Worker, database: Database) -> None:
    """A container that is started again often has the name and process id of the killed one."""
    killed = worker._register()
    assert killed.pid == os.getpid()
    started = worker._register()
    assert started.instance != killed.instance
    with database.read() as session:
        assert [entry.instance for entry in workers.find(session)] == [started.instance]


def test_only_a_worker_that_ended_idle_looks_for_overlooked_work(worker: Worker, database: Database) -> None:
    worker._maintenance = SimpleNamespace(is_ending_idle=True)  # type: ignore[assignment]
    with database.write() as session:
        registry.submit_job(session, SPEC, requirements=Requirements(labels=("big",)))
    assert not worker.has_overlooked_work(), "the worker cannot run this job"
    with database.write() as session:
        registry.submit_job(session, SPEC)
    assert worker.has_overlooked_work()
    worker._maintenance.is_ending_idle = False
    assert not worker.has_overlooked_work(), "the worker was told to end"


def test_worker_that_is_ended_while_it_starts_leaves_no_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker(settings.load(home=tmp_path))
    answered: list[bool] = []

    def ended() -> None:
        answered.append(home_broker.answers(made._settings))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(made, "_register", ended)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            made.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert answered == [True]
    assert not home_broker.answers(made._settings)


@pytest.mark.parametrize(
    ("requirements", "claims_nothing", "is_left", "is_passed_on"),
    [
        (Requirements(), "", True, False),
        (Requirements(labels=("big",)), "", False, True),
        (Requirements(), "draining", False, True),
        (Requirements(), "stopping", False, True),
    ],
)
def test_wake_up_for_a_job_that_the_worker_cannot_run_is_passed_on(
    requirements: Requirements,
    claims_nothing: str,
    is_left: bool,
    is_passed_on: bool,
    worker: Worker,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker._register()
    register(database, "other")
    with database.write() as session:
        job = registry.submit_job(session, SPEC, requirements=requirements)
    passed: list[tuple[str, list[str]]] = []

    def wake_fitting(job: Job, idle: Sequence[values.Worker]) -> None:
        passed.append((job.id, [candidate.id for candidate in idle]))

    monkeypatch.setattr(worker._dispatcher, "wake_fitting", wake_fitting)
    worker._attempt_source.is_draining = claims_nothing == "draining"
    if claims_nothing == "stopping":
        worker._attempt_source.stopping.set()
    (slot,) = worker._slots
    assert worker._is_left(job.id, slot) is is_left
    assert passed == ([(job.id, ["other"])] if is_passed_on else []), "the worker itself is no candidate"
    with database.write() as session:
        jobs.request_cancel(session, job.id)
    passed.clear()
    assert not worker._is_left(job.id, slot)
    assert not worker._is_left("no-such-job", slot)
    assert passed == [], "nobody waits for it"


@pytest.mark.parametrize("names_job", [True, False])
def test_message_that_a_slot_cannot_use_wakes_the_other_slots_if_they_differ(
    names_job: bool, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphics cards of one machine may differ, and a message may wake the slot of any of them."""
    big, small = (
        Slot(devices.find_cpu(), registry.ANY_SLOT.evolve(memory_bytes=memory), worker._slots._orphan_cleanup)
        for memory in (2**40, 2**30)
    )
    worker._slots._all[:] = [big, small]
    worker._slots._free = queue.LifoQueue()
    for slot in (big, small):
        worker._slots._free.put(slot)
    worker._pool = SlotPool(limit=2)
    with database.write() as session:
        job = registry.submit_job(session, SPEC, requirements=Requirements(memory_bytes=2**35))
    ran: queue.SimpleQueue[tuple[str, Slot]] = queue.SimpleQueue()
    monkeypatch.setattr(worker, "_run", lambda attempt, slot: ran.put((*attempt.job_ids, slot)))
    request = Request()
    celery_state.reserved_requests.add(request)
    try:
        worker._wake(job.id if names_job else "")
        assert ran.get(timeout=60) == (job.id, big)
        worker._wake()
        wait_until(lambda: worker._pool.num_processes == 2, "the looks to end")
    finally:
        celery_state.reserved_requests.discard(request)
        worker._pool.on_stop()
    assert ran.empty()


class HungChild(FakeChild):
    """A child that waits in the kernel, for a device or a disk."""

    def kill(self) -> None:
        raise AssertionError("the worker would wait for its end")


def test_first_signal_hands_jobs_back_and_the_second_ends_the_worker_without_waiting(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    (slot,) = worker._slots
    slot.attempt = SimpleNamespace(child=HungChild())  # type: ignore[assignment]
    worker._on_shutting_down(how="Warm")
    assert worker._attempt_source.stopping.is_set()
    assert ended == []
    worker._on_shutting_down("SIGINT", how="Warm")
    assert ended == [130]


def test_worker_that_cannot_end_does_so_after_the_grace(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker._overtime.interval == worker._settings.grace_seconds + 15.0
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker._overtime.interval = 0.0
    worker._on_shutting_down(how="Warm")
    worker._overtime.join(60)
    assert ended == [7]
    assert [said["action"] for said in list_said(caplog)] == ["end"]


def test_files_of_final_jobs_are_removed(worker: Worker, database: Database) -> None:
    with database.write() as session:
        queued, final = (registry.submit_job(session, SPEC) for _ in range(2))
        final = jobs.request_cancel(session, final.id)
    for job in (queued, final):
        worker._folders.begin(job.id, 1).mkdir(parents=True)
    for ended in (queued, final, None):
        worker._ended_jobs.put(ended)
    worker._follow_up()
    assert worker._folders.jobs() == [queued.id]


def test_slot_of_an_attempt_with_a_defect_is_free_afterwards(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def run() -> None:
        assert slot.attempt is attempt
        raise ZeroDivisionError("a defect")

    woken: list[bool] = []
    worker._maintenance = SimpleNamespace(wake=lambda: woken.append(True))  # type: ignore[assignment]
    (slot,) = worker._slots
    following = SimpleNamespace(job=None)
    attempt = SimpleNamespace(run=run, job_ids=["a"], child=None, next_job=following, ended_jobs=[])
    worker._run(attempt, slot)  # type: ignore[arg-type]
    assert (slot.attempt, slot.child, slot.next_job) == (None, None, following)
    assert woken == [True]
    assert [(said["action"], said["job_id"]) for said in list_said(caplog)] == [("run", "a")]


def test_worker_looks_again_for_the_job_of_a_claim_of_unknown_outcome(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wake-up would follow, since the job counts as running."""
    worker._attempt_source.readiness.check_store()  # the first check writes, too
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    ran: list[str] = []
    write = worker._stores.database.write
    broken: list[bool] = []

    @contextlib.contextmanager
    def break_after_commit() -> Iterator[Session]:
        with write() as session:
            yield session
        if not broken:
            broken.append(True)
            raise errors.Unavailable("the connection broke")

    monkeypatch.setattr(worker._stores.database, "write", break_after_commit)
    monkeypatch.setattr(worker, "_run", lambda attempt, slot: ran.extend(attempt.job_ids))
    worker._wake(job.id)
    assert ran == [job.id]


def test_wake_up_of_a_job_that_this_worker_cannot_run_now_goes_to_others(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []

    def wake(job: Job, candidates: Sequence[values.Worker]) -> list[str]:
        woken.extend(candidate.id for candidate in candidates)
        return []

    monkeypatch.setattr(worker._dispatcher, "wake_fitting", wake)
    worker._register()
    with database.write() as session:
        other = values.WorkerDescription(id="other", hostname="b", pid=1, version="1", schema_revision="1", devices=())
        workers.register(session, other)
        job = registry.submit_job(session, SPEC)
    monkeypatch.setattr(worker._attempt_source.readiness, "check_store", lambda: False)
    monkeypatch.setattr(worker._attempt_source.readiness, "_store_trouble", "its store is away")
    worker._wake(job.id)
    assert woken == ["other"], "not to itself, which would never end"


def test_defect_while_a_message_is_passed_on_does_not_cost_the_claimed_job(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is for a job that this worker cannot run, and its slot has claimed another one."""

    def fail(job: Job, idle: Sequence[values.Worker]) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(worker._dispatcher, "wake_fitting", fail)
    worker._register()
    register(database, "other")
    with database.write() as session:
        unfit = registry.submit_job(session, SPEC, requirements=Requirements(labels=("big",)))
        fit = registry.submit_job(session, SPEC)
    ran: list[str] = []
    monkeypatch.setattr(worker, "_run", lambda attempt, slot: ran.extend(attempt.job_ids))
    worker._wake(unfit.id)
    assert ran == [fit.id]
