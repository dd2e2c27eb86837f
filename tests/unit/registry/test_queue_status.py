"""Status of the queue: what is counted, who is the oldest, and that no number of jobs makes it slow."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import attempts, jobs, queue_status, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.registry.queue_status import QueueDepth, QueueStatus


def read(database: Database, lost_after: float = 0.0) -> QueueStatus:
    with database.read() as session:
        return queue_status.read(session, lost_after=lost_after)


def age(database: Database, job_id: str, **columns: float) -> None:
    """Move times of a job into the past, or into the future with negative seconds."""
    with database.write() as session:
        moved = {name: types.later(-seconds) for name, seconds in columns.items()}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(moved))


def test_empty_queue_has_no_oldest_job(database: Database) -> None:
    status = read(database)
    assert (status.queued, status.waiting, status.running, status.lost, status.unsettled) == (0, 0, 0, (), 0)
    assert (status.depths, status.oldest, status.oldest_seconds) == ((), None, None)


def test_jobs_ahead_are_those_of_the_queue_that_are_claimed_earlier(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = registry.submit(database, priority=-1)
    plain = [registry.submit(database) for _ in range(3)]
    high = registry.submit(database, priority=1)
    registry.submit(database, queue="night", priority=9)

    def count(job_id: str) -> int:
        with database.read() as session:
            return queue_status.count_ahead(session, job_id)

    assert [count(job.id) for job in (low, *plain, high)] == [4, 1, 2, 3, 0]
    monkeypatch.setattr(queue_status, "MOST_AHEAD", 2)
    claimed = registry.claimed(database)
    assert count(claimed.id) == 0 or claimed.id not in {job.id for job in plain}
    assert count("unknown") == 0


def test_jobs_are_counted_by_state_queue_and_priority(database: Database) -> None:
    first = registry.submit(database)
    registry.submit(database, depends_on=(first.id,))
    registry.claimed(database)
    for priority in (0, 0, 5, 1000, -1):
        registry.submit(database, priority=priority)
    for labels in ((), ("a100",)):
        registry.submit(database, queue="night", labels=labels)
    status = read(database)
    assert (status.queued, status.waiting, status.running) == (7, 1, 1)
    assert status.depths == (
        QueueDepth(queue="default", priority="high", jobs=2),
        QueueDepth(queue="default", priority="low", jobs=1),
        QueueDepth(queue="default", priority="normal", jobs=2),
        QueueDepth(queue="night", priority="normal", jobs=2),
    )


def test_oldest_job_is_the_one_that_could_start_for_the_longest_time(database: Database) -> None:
    fresh, low, retried, later = (registry.submit(database, priority=priority) for priority in (9, -9, 5, 9))
    age(database, low.id, created_at=500.0)
    age(database, retried.id, created_at=1000.0, not_before=100.0)
    age(database, later.id, created_at=2000.0, not_before=-60.0)
    status = read(database)
    assert status.oldest == low.id
    assert status.oldest_seconds == pytest.approx(500, abs=60)
    age(database, low.id, not_before=-60.0)
    assert read(database).oldest == retried.id
    age(database, retried.id, not_before=-60.0)
    assert read(database).oldest == fresh.id
    age(database, fresh.id, not_before=-60.0)
    status = read(database)
    assert (status.queued, status.oldest, status.oldest_seconds) == (4, None, None), "none can start"


def test_job_that_was_handed_back_has_waited_since_then(database: Database) -> None:
    older, _ = registry.submit(database), registry.submit(database, priority=1)
    job = registry.claimed(database)
    with database.write() as session:
        attempts.hand_back(session, job)
    age(database, older.id, created_at=300.0)
    age(database, job.id, created_at=1000.0)
    assert read(database).oldest == older.id


def test_lost_jobs_are_those_that_no_sweep_has_ended(database: Database) -> None:
    for _ in range(2):
        registry.submit(database)
    held, lost = registry.claimed(database), registry.claimed(database, lease=-20.0)
    assert read(database).lost == (lost.id,)
    assert read(database, lost_after=60.0).lost == ()
    with database.write() as session:
        attempts.expire_leases(session, values.RetryPolicy())
    assert read(database).lost == ()
    assert read(database).running == 1
    assert registry.get(database, held).worker is not None


def test_numbers_end_at_a_limit_and_priorities_behind_it_are_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_status, "_FRONT_JOBS", 4)
    oldest = registry.submit(database, priority=-5)
    age(database, oldest.id, created_at=100.0)
    with database.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), priority=1)] * 12)
    assert read(database).oldest == oldest.id
    assert [(depth.priority, depth.jobs) for depth in read(database).depths] == [("high", 12), ("low", 1)]
    monkeypatch.setattr(queue_status, "MOST", 10)
    assert read(database).queued == 10


def test_time_is_the_database_s(database: Database) -> None:
    with database.read() as session:
        now = session.execute(sa.select(types.now())).scalar_one()
    assert timedelta() <= read(database).at - now < timedelta(minutes=1)
