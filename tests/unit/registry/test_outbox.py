from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import jobs, outbox, types, values
from finch_hub.registry.database import Database


def due(database: Database, **arguments: float) -> list[str]:
    with database.write() as session:
        return list(outbox.take_due(session, **arguments))  # type: ignore[arg-type]


def let_pass(database: Database) -> None:
    """Bring all moments of ringing into the past, as waiting would."""
    with database.write() as session:
        session.execute(sa.update(jobs.jobs).where(jobs.jobs.c.ring_at.is_not(None)).values(ring_at=types.later(-1)))


def test_the_submitter_has_a_moment_to_ring_by_itself(database: Database) -> None:
    job = registry.submit(database)
    assert due(database) == []
    let_pass(database)
    assert due(database) == [job.id]


def test_one_reconciler_at_a_time_gets_a_wakeup(database: Database) -> None:
    made = [registry.submit(database).id for _ in range(3)]
    let_pass(database)
    assert len(due(database, limit=2)) == 2
    assert len(due(database, limit=2)) == 1
    assert due(database) == []
    let_pass(database)  # the one that got them was killed before it rang
    assert sorted(due(database)) == sorted(made)


def test_a_job_that_stays_queued_is_rung_for_again_but_not_at_once(database: Database) -> None:
    job = registry.submit(database)
    assert due(database, again_seconds=-1) == []
    let_pass(database)
    assert due(database) == [job.id]
    assert due(database) == []
    with database.write() as session:
        outbox.postpone(session, [job.id], seconds=-1)
    assert due(database, again_seconds=-1) == [job.id]
    assert due(database) == [job.id]


def test_nobody_rings_for_a_job_that_is_not_queued(database: Database) -> None:
    for _ in range(2):
        registry.submit(database)
    running = registry.claimed(database)
    registry.cancel(database, registry.get(database, registry.submit(database)))
    with database.write() as session:
        outbox.postpone(session, [running.id], seconds=-1)  # a note that comes too late
    let_pass(database)
    assert len(due(database)) == 1
    assert registry.get(database, running) == running


def test_a_job_that_is_queued_again_is_due_when_it_may_start(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    registry.fail(database, registry.claimed(database, job_id=first.id), retry=registry.AT_ONCE)
    assert due(database) == [first.id]
    later = values.RetryPolicy(base_delay=60)
    registry.fail(database, registry.claimed(database, job_id=second.id), retry=later)
    assert due(database) == []
    let_pass(database)
    assert sorted(due(database)) == sorted([first.id, second.id])


def test_a_job_released_by_its_parents_is_due_at_once(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.succeed(database, registry.claimed(database))
    assert due(database) == [child.id]
