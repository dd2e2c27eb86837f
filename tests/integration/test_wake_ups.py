"""Numbers of messages and writes of a fleet, with a real broker and on both databases."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from support import fuzzing, registry
from support.fleet import Broker

from finch_hub import settings
from finch_hub.registry import attempts, claims, deployment, jobs, tables, types, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import ExportSpec, Job, JobState, Requirements
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.maintenance import Maintenance
from finch_hub.workers.messaging.broker import key_prefix, own_queue_name, queue_name
from finch_hub.workers.worker import Worker

SPEC = ExportSpec(adapter="finch", format="peft", out="/nowhere")
GPU = values.Device(kind="cuda", name="L4", memory_bytes=2**40, free_bytes=2**40)
GPU_SLOT = registry.ANY_SLOT.evolve(device="cuda")
BACKLOG = 20_000


class Fleet:
    """A worker with one CPU slot that is driven by hand, and others that exist in the database only."""

    def __init__(self, broker: Broker, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker, self.database = broker, database
        url = database.url.render_as_string(hide_password=False)
        self.worker = Worker(
            settings.load(home=home, database_url=url, broker_url=broker.url, allow_insecure=True), name="cpu"
        )
        self.entry = self.worker._register()
        self.ran: list[str] = []
        monkeypatch.setattr(self.worker, "_run", lambda attempt, slot: self.ran.extend(attempt.job_ids))
        with database.read() as session:
            self._prefix = key_prefix(deployment.find_id(session))

    def close(self) -> None:
        self.worker._attempt_source.close()
        self.worker._slots.close()
        self.worker._dispatcher.close()
        self.worker._app.close()
        self.worker._stores.database.close()
        home_broker.stop(self.worker._settings, worker=self.worker.name)

    def add_worker(self, name: str, *, slots: int = 1, device: values.Device = GPU, labels: Sequence[str] = ()) -> None:
        description = values.WorkerDescription(
            id=name,
            hostname="elsewhere",
            pid=1,
            version="1",
            schema_revision="1",
            slots=slots,
            devices=(device,) * slots,
            labels=tuple(labels),
        )
        with self.database.write() as session:
            workers.register(session, description)

    def keep_busy(self, name: str, *, jobs_to_run: int = 1) -> None:
        """Let a worker claim new jobs of the highest priority, which never end."""
        with self.database.write() as session:
            for _ in range(jobs_to_run):
                registry.submit_job(session, SPEC, priority=1000, requirements=Requirements(device="cuda"))
                claimed = claims.claim(session, worker=name, lease_seconds=86_400, capabilities=GPU_SLOT)
                assert claimed is not None
                assert claimed.priority == 1000

    def submit(self, number: int = 1, **requirements: Any) -> list[Job]:
        new = values.NewJob.of_spec(SPEC, requirements=Requirements(**requirements))
        with self.database.write() as session:
            return jobs.submit_many(session, [new] * number)

    def dispatch(self, *queued: Job) -> None:
        self.worker._dispatcher.dispatch(*queued)

    def pass_time(self) -> None:
        """Make every message due that would become due by itself."""
        with self.database.write() as session:
            rings = tables.jobs.c.ring_at
            session.execute(sa.update(tables.jobs).where(rings.is_not(None)).values(ring_at=types.later(-1)))

    def count_messages(self, *queues: str) -> int:
        """Return the number of messages in some queues of the broker, by default in all."""
        with self.broker.client() as client:
            keys = [f"{self._prefix}{queue}" for queue in queues] or client.keys("*")
            return sum(client.llen(key) for key in keys)

    def deliver(self) -> int:
        """Give the CPU worker the messages that it may take, and return their number."""
        number = 0
        with self.broker.client() as client:
            for queue in (queue_name("default"), own_queue_name("cpu")):
                while (message := client.rpop(f"{self._prefix}{queue}")) is not None:
                    args, *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
                    self.worker._wake(*args)
                    number += 1
        return number

    def make_maintenance(self) -> Maintenance:
        worker = self.worker
        return Maintenance(
            self.entry,
            worker._stores,
            worker._slots,
            worker._attempt_source,
            worker._dispatcher,
            is_on_demand=False,
            end_worker=lambda: None,
        )


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


@pytest.fixture
def fleet(broker: Broker, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(broker, database, tmp_path, monkeypatch)
    yield made
    made.close()


def test_idle_worker_beside_busy_ones_multiplies_no_messages(fleet: Fleet) -> None:
    """A CPU worker takes the messages of 200 jobs that only the four busy GPU workers can run."""
    for number in range(4):
        fleet.add_worker(f"gpu-{number}", slots=4)
        fleet.keep_busy(f"gpu-{number}", jobs_to_run=4)
    queued = fleet.submit(200, device="cuda")
    fleet.dispatch(*queued)
    maintenance = fleet.make_maintenance()
    delivered = []
    for number in range(5):
        fleet.pass_time()
        maintenance._look(1000.0 + 60 * number)
        delivered.append(fleet.deliver())
        assert fleet.count_messages() == 0, "no slot that could run these jobs is idle"
    assert delivered == [17, 0, 0, 0, 0], "as many as slots once, and then none"
    for job in queued:
        fleet.dispatch(job)
        assert fleet.deliver() == 1
    assert fleet.count_messages() == 0
    assert fleet.ran == []


def test_idle_worker_is_woken_once_by_a_message_that_another_took(fleet: Fleet) -> None:
    fleet.add_worker("busy")
    fleet.keep_busy("busy")
    fleet.add_worker("idle", slots=4)
    fleet.dispatch(*fleet.submit(device="cuda"))
    assert fleet.deliver() == 1
    assert fleet.count_messages() == fleet.count_messages(own_queue_name("idle")) == 1


def test_jobs_that_fit_others_keep_no_job_from_an_idle_worker(fleet: Fleet) -> None:
    """The messages at its time are all of jobs that the worker cannot run."""
    fleet.add_worker("busy")
    fleet.keep_busy("busy")
    unfit = fleet.submit(200, device="cuda")
    (fits,) = fleet.submit(device="cpu")
    fleet.dispatch(*unfit)
    assert fleet.count_messages() == 16, "the queue is full"
    fleet.dispatch(fits)
    assert fleet.deliver() == 16
    assert fleet.ran == [fits.id]


def test_queues_that_nobody_reads_stop_growing(fleet: Fleet) -> None:
    fleet.add_worker("gpu-1", slots=2)
    maintenance = fleet.make_maintenance()
    for number in range(3):
        queued = [*fleet.submit(60), *fleet.submit(60, device="cuda")]
        for job in queued:
            fleet.dispatch(job)
        with fleet.database.read() as session:
            idle = workers.find_idle(session)
        for job in queued:
            fleet.worker._dispatcher.wake_fitting(job, idle)
        fleet.pass_time()
        maintenance._look(1000.0 + 60 * number)
        assert fleet.count_messages(queue_name("default")) == 16
        assert fleet.count_messages(own_queue_name("cpu")) == 1
        assert fleet.count_messages(own_queue_name("gpu-1")) == 2
        assert fleet.count_messages() == 19


def test_job_whose_message_was_lost_is_found_by_the_look_of_a_slot(fleet: Fleet) -> None:
    (job,) = fleet.submit()
    fleet.dispatch(job)
    fleet.broker.flush()
    fleet.worker._fill_slot()  # as idle slots do every 15 seconds
    assert fleet.ran == [job.id]


def test_job_whose_dependency_ends_wakes_an_idle_slot(fleet: Fleet) -> None:
    with fleet.database.write() as session:
        parent = registry.submit_job(session, SPEC)
        child = registry.submit_job(session, SPEC, depends_on=[parent.id])
    fleet.dispatch(child)
    assert fleet.count_messages() == 0, "it waits"
    registry.succeed(fleet.database, registry.claimed(fleet.database))
    fleet.make_maintenance()._look(1000.0)
    assert fleet.deliver() == 1
    assert fleet.ran == [child.id]


def test_job_that_may_start_again_wakes_an_idle_slot(fleet: Fleet) -> None:
    (job,) = fleet.submit()
    maintenance = fleet.make_maintenance()
    registry.fail(fleet.database, registry.claimed(fleet.database), retry=values.RetryPolicy(base_delay=3600))
    maintenance._look(1000.0)
    assert fleet.count_messages() == 0, "its time has not come"
    with fleet.database.write() as session:
        session.execute(sa.update(tables.jobs).values(ring_at=types.later(-1), not_before=types.later(-1)))
    maintenance._look(1001.0)
    assert fleet.deliver() == 1
    assert fleet.ran == [job.id]


def row_versions(database: Database) -> set[tuple[Any, ...]]:
    """Return what identifies the stored versions of all rows of jobs."""
    with database.read() as session:
        return {tuple(row) for row in session.execute(sa.text("SELECT number, xmin::text, ctid::text FROM jobs"))}


@pytest.mark.slow
def test_long_queue_costs_nothing_while_all_slots_are_busy(fleet: Fleet) -> None:
    fleet.add_worker("gpu-1", slots=2)
    fleet.keep_busy("gpu-1", jobs_to_run=2)
    (slot,) = fleet.worker._slots
    slot.attempt = SimpleNamespace(child=None)  # type: ignore[assignment]
    maintenance = fleet.make_maintenance()
    times = itertools.count(step=60.0)
    maintenance._look(next(times))
    statements: list[str] = []

    def count(*arguments: Any) -> None:
        statements.append(arguments[2])

    def run_rounds() -> list[str]:
        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        try:
            for _ in range(5):
                maintenance._look(next(times))
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", count)
        found, statements[:] = statements.copy(), []
        return found

    without_queue = run_rounds()
    for _ in range(BACKLOG // 1000):
        fleet.submit(1000, device="cuda")
    fleet.pass_time()
    if fleet.database.is_sqlite:
        with fleet.database.write() as session:
            session.execute(sa.text("CREATE TABLE changed (number INTEGER)"))
            session.execute(
                sa.text(
                    "CREATE TRIGGER count_changes AFTER UPDATE ON jobs"
                    " BEGIN INSERT INTO changed VALUES (new.number); END"
                )
            )
        assert run_rounds() == without_queue
        with fleet.database.read() as session:
            assert session.scalar(sa.text("SELECT count(*) FROM changed")) == 0
    else:
        before, begin = row_versions(fleet.database), wal_position(fleet.database)
        assert run_rounds() == without_queue
        assert row_versions(fleet.database) == before
        assert wal_position(fleet.database) - begin < 100_000, "bytes, for heartbeats"
    assert fleet.count_messages() == 0
    slot.attempt = None


def wal_position(database: Database) -> int:
    with database.read() as session:
        return int(session.scalar(sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")))


def test_job_that_is_queued_again_is_written_once_for_its_message(fleet: Fleet) -> None:
    (job,) = fleet.submit(device="cuda")
    claimed = registry.claimed(fleet.database, capabilities=GPU_SLOT)
    with fleet.database.write() as session:
        attempts.hand_back(session, claimed)
    maintenance = fleet.make_maintenance()
    maintenance._look(0.0)
    stored = registry.get(fleet.database, job)
    assert (stored.state, fleet.count_messages()) == (JobState.QUEUED, 1)
    with fleet.database.read() as session:
        assert session.scalar(sa.select(tables.jobs.c.ring_at)) is None
    maintenance._look(60.0)
    assert fleet.count_messages() == 1


LABELS = st.lists(st.sampled_from(["big", "near"]), unique=True, max_size=2)
OTHERS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), LABELS, st.booleans()), max_size=4)


@hypothesis.settings(
    max_examples=fuzzing.examples(20),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(
    others=OTHERS, device=st.sampled_from(["cpu", "cuda", "any"]), labels=LABELS, is_draining=st.booleans()
)
def test_message_causes_one_message_at_most_and_that_one_none(
    fleet: Fleet, others: list[Any], device: str, labels: list[str], is_draining: bool
) -> None:
    fleet.broker.flush()
    with fleet.database.write() as session:
        session.execute(sa.delete(tables.jobs))
        session.execute(sa.delete(workers.workers).where(workers.workers.c.id != "cpu"))
    for number, (slots, busy, has_labels, is_gpu) in enumerate(others):
        cpu = GPU.evolve(kind="cpu")
        fleet.add_worker(f"other-{number}", slots=slots, device=GPU if is_gpu else cpu, labels=has_labels)
        fleet.keep_busy(f"other-{number}", jobs_to_run=min(busy, slots))
    fleet.worker._attempt_source.is_draining = is_draining
    (job,) = fleet.submit(device=device, labels=tuple(labels))
    for _ in range(3):
        before = fleet.count_messages()
        fleet.worker._wake(job.id)
        caused = fleet.count_messages() - before
        assert caused <= 1
        if caused:
            assert not labels or any(set(labels) <= set(known) for _, _, known, _ in others)
            fleet.worker._wake("")
            assert fleet.count_messages() == before + 1, "a message that was passed on is not passed on again"
    num_slots = sum(slots for slots, *_ in others)
    assert fleet.count_messages() <= num_slots
