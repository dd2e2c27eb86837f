from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import jobs, types, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Requirements

CPU = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)
GPU = values.Device(kind="cuda", name="L4", memory_bytes=24 * 2**30, free_bytes=20 * 2**30)


def register(database: Database, name: str = "gpu-1", *, replaces: str | None = None, **fields: Any) -> values.Worker:
    given: dict[str, Any] = {"hostname": "box", "pid": 7, "version": "0.1.0", "schema_revision": "0001"}
    given |= {"devices": [CPU], **fields}
    with database.write() as session:
        return workers.register(session, values.WorkerDescription(id=name, **given), replaces=replaces)


def heartbeat(database: Database, worker: values.Worker, **arguments: Any) -> str:
    with database.write() as session:
        return workers.heartbeat(session, worker, **arguments)


def silence(database: Database, worker: values.Worker, seconds: float = 3600) -> None:
    with database.write() as session:
        session.execute(
            sa.update(workers.workers).where(workers.workers.c.id == worker.id).values(last_seen=types.later(-seconds))
        )


def find(database: Database) -> list[values.Worker]:
    with database.read() as session:
        return workers.find(session)


def test_registered_worker_is_listed_with_its_jobs(database: Database) -> None:
    worker = register(database, devices=[CPU, GPU], queues=["default", "night"], labels=["ada"], slots=2)
    registry.submit(database)
    job = registry.claimed(database, worker="gpu-1")
    assert find(database) == [worker.evolve(jobs=(job.id,))]
    assert (worker.devices, worker.queues, worker.labels, worker.slots) == (
        (CPU, GPU),
        ("default", "night"),
        ("ada",),
        2,
    )
    registry.succeed(database, job)
    assert find(database) == [worker]


def test_name_of_a_living_worker_is_refused(database: Database) -> None:
    first = register(database)
    with pytest.raises(errors.Conflict, match=r"a worker of that name runs on box as process 7 .choose another name"):
        register(database)
    silence(database, first)
    second = register(database, pid=8)
    with pytest.raises(errors.Conflict, match="another worker is registered as"):
        heartbeat(database, first)
    assert heartbeat(database, second) == "active"
    third = register(database, pid=9, replaces=second.instance)
    assert [worker.instance for worker in find(database)] == [third.instance]


@pytest.mark.parametrize("left", ["nothing", "stopped", "silent"])
def test_worker_whose_row_a_failover_lost_is_registered_again(database: Database, left: str) -> None:
    worker = register(database)
    with database.write() as session:
        session.execute(sa.delete(workers.workers))
    if left != "nothing":
        earlier = register(database, pid=6)
        silence(database, earlier)
    if left == "stopped":
        with database.write() as session:
            workers.mark_stopped(session, earlier.id, earlier.instance)
    assert heartbeat(database, worker, remark="its store is away") == "active"
    (found,) = find(database)
    assert found.evolve(started_at=worker.started_at, last_seen=worker.last_seen, remark=None) == worker
    assert found.remark == "its store is away"


def test_name_of_a_stopped_worker_is_free(database: Database) -> None:
    first = register(database)
    with database.write() as session:
        workers.mark_stopped(session, first.id, first.instance)
    assert [worker.state for worker in find(database)] == ["stopped"]
    assert register(database).instance != first.instance


def test_heartbeat_returns_the_requested_state(database: Database) -> None:
    worker = register(database)
    for order in ("draining", "active", "stopping"):
        with database.write() as session:
            assert workers.request_state(session, worker.id, order).state == order
        assert heartbeat(database, worker) == order
    with pytest.raises(errors.NotFound, match="'gpu-1'"), database.write() as session:
        workers.request_state(session, "gpu-2", "draining")


def test_request_to_a_silent_worker_is_refused(database: Database) -> None:
    worker = register(database)
    silence(database, worker)
    assert [worker.state for worker in find(database)] == ["silent"]
    with pytest.raises(errors.Conflict, match="is silent"), database.write() as session:
        workers.request_state(session, worker.id, "draining")
    heartbeat(database, worker, devices=[CPU.evolve(free_bytes=1)])
    assert [(worker.state, worker.devices[0].free_bytes) for worker in find(database)] == [("active", 1)]


def test_heartbeat_of_a_clock_that_jumped_keeps_no_name_for_ever(database: Database) -> None:
    worker = register(database)
    silence(database, worker, seconds=-3600)
    assert [worker.state for worker in find(database)] == ["silent"]
    with database.read() as session:
        assert (workers.find_living(session), workers.count_slots(session)) == ([], 0)
    assert register(database).instance != worker.instance
    silence(database, worker, seconds=-3600)
    with database.write() as session:
        assert workers.forget(session, silent=3700, stopped=60) == []
        assert workers.forget(session, silent=3500, stopped=60) == ["gpu-1"]


def test_forget_deletes_workers_without_heartbeat_and_stopped_ones_sooner(database: Database) -> None:
    gone, there, stopped, restarted = (register(database, name) for name in ("gone", "there", "stopped", "restarted"))
    silence(database, gone)
    with database.write() as session:
        for worker, seconds in ((stopped, 61), (restarted, 59)):
            is_it = workers.workers.c.id == worker.id
            ended = {"state": "stopped", "last_seen": types.later(-float(seconds))}
            session.execute(sa.update(workers.workers).where(is_it).values(ended))
        assert sorted(workers.forget(session, silent=600, stopped=60)) == ["gone", "stopped"]
    assert sorted(worker.id for worker in find(database)) == [restarted.id, there.id]


def test_request_to_a_stopping_worker_is_refused(database: Database) -> None:
    register(database)
    with database.write() as session:
        workers.request_state(session, "gpu-1", "draining")
        assert workers.request_state(session, "gpu-1", "stopping").state == "stopping"
        assert workers.request_state(session, "gpu-1", "stopping").state == "stopping"
        with pytest.raises(errors.Conflict, match="is stopping"):
            workers.request_state(session, "gpu-1", "draining")


def test_worker_is_silent_after_a_minute_and_its_slots_do_not_count(database: Database) -> None:
    def count() -> int:
        with database.read() as session:
            return workers.count_slots(session)

    one, other = register(database, "one", slots=2), register(database, "other", slots=3)
    silence(database, one, 5)
    assert ([worker.state for worker in find(database)], count()) == (["active", "active"], 5)
    silence(database, one, 61)
    assert ([worker.state for worker in find(database)], count()) == (["silent", "active"], 3)
    with database.write() as session:
        workers.mark_stopped(session, other.id, other.instance)
    assert count() == 0


def test_stopped_worker_was_seen_when_it_stopped_and_has_no_remark(database: Database) -> None:
    worker = register(database)
    with database.write() as session:
        workers.heartbeat(session, worker, remark=workers.HANDS_OVER)
    silence(database, worker, 50)
    with database.write() as session:
        workers.mark_stopped(session, worker.id, worker.instance)
        (stopped,) = workers.find(session)
    assert (stopped.last_seen - worker.last_seen).total_seconds() > -10
    assert stopped.remark is None


def test_slots_of_workers_that_serve_a_queue_are_counted(database: Database) -> None:
    register(database, "one", slots=2, queues=("default", "gpu"))
    register(database, "other", slots=3)
    with database.read() as session:
        counts = [workers.count_slots(session, queue=queue) for queue in ("default", "gpu", "none", None)]
    assert counts == [5, 2, 0, 5]


def test_idle_workers_are_active_and_have_a_slot_without_a_job(database: Database) -> None:
    def find_idle() -> list[str]:
        with database.read() as session:
            return [worker.id for worker in workers.find_idle(session)]

    silence(database, register(database, "silent"), 61)
    for state in ("draining", "stopping"):
        register(database, state)
        with database.write() as session:
            workers.request_state(session, state, state)
    register(database, "one")
    register(database, "two", slots=2)
    assert find_idle() == ["one", "two"]
    for name in ("one", "two"):
        registry.submit(database)
        registry.claimed(database, worker=name)
    assert find_idle() == ["two"]
    registry.submit(database)
    job = registry.claimed(database, worker="two")
    assert find_idle() == []
    registry.succeed(database, job)
    assert find_idle() == ["two"]


def test_jobs_that_may_share_a_slot_count_as_one(database: Database) -> None:
    register(database, "one", slots=2)
    with database.write() as session:
        together = values.NewJob.of_spec(registry.train_spec(), requirements=Requirements(together=True))
        jobs.submit_many(session, [together] * 4)
    for _ in range(4):
        registry.claimed(database, worker="one")
    with database.read() as session:
        assert [worker.id for worker in workers.find_idle(session)] == ["one"]


def test_remark_lasts_until_the_next_heartbeat(database: Database) -> None:
    worker = register(database)
    heartbeat(database, worker, remark="its store is away")
    assert [worker.remark for worker in find(database)] == ["its store is away"]
    heartbeat(database, worker)
    assert [worker.remark for worker in find(database)] == [None]


def test_worker_whose_row_is_damaged_hides_no_other(database: Database) -> None:
    sound, damaged = register(database, "a"), register(database, "b")
    time, queues = ("garbage", '{"a": 1}') if database.is_sqlite else ("-infinity", '{"a": 1}')
    with database.write() as session:
        changes = {"time": time, "queues": queues}
        session.execute(sa.text("UPDATE workers SET started_at = :time, queues = :queues WHERE id = 'b'"), changes)
    found = find(database)
    assert found[0] == sound
    assert (found[1].id, found[1].started_at, found[1].queues) == (damaged.id, types.UNKNOWN_TIME, ("default",))
    assert "its row in the database is damaged: queues: " in (found[1].remark or "")
    with database.read() as session:
        assert [worker.id for worker in workers.find_idle(session)] == ["a"]
