from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import outbox, tables, types, values
from finch_hub.registry.database import Database


def take_due(database: Database, **arguments: float) -> list[str]:
    with database.write() as session:
        return list(outbox.take_due(session, **arguments))  # type: ignore[arg-type]


def make_all_due(database: Database) -> None:
    """Move the due time of all jobs into the past, as waiting would."""
    with database.write() as session:
        session.execute(
            sa.update(tables.jobs).where(tables.jobs.c.ring_at.is_not(None)).values(ring_at=types.later(-1))
        )


def test_new_job_is_due_only_after_the_grace_time(database: Database) -> None:
    job = registry.submit(database)
    assert take_due(database) == []
    make_all_due(database)
    assert take_due(database) == [job.id]


def test_due_job_is_taken_once(database: Database) -> None:
    made = [registry.submit(database).id for _ in range(3)]
    make_all_due(database)
    assert len(take_due(database, limit=2)) == 2
    assert len(take_due(database, limit=2)) == 1
    assert take_due(database) == []
    make_all_due(database)  # the process that took them was killed before it sent messages
    assert sorted(take_due(database)) == sorted(made)


def test_queued_job_is_due_again_later(database: Database) -> None:
    job = registry.submit(database)
    assert take_due(database, again_seconds=-1) == []
    make_all_due(database)
    assert take_due(database) == [job.id]
    assert take_due(database) == []
    with database.write() as session:
        outbox.postpone(session, [job.id], seconds=-1)
    assert take_due(database, again_seconds=-1) == [job.id]
    assert take_due(database) == [job.id]


def test_job_that_is_not_queued_is_not_due(database: Database) -> None:
    for _ in range(2):
        registry.submit(database)
    running = registry.claimed(database)
    registry.cancel(database, registry.get(database, registry.submit(database)))
    with database.write() as session:
        outbox.postpone(session, [running.id], seconds=-1)  # after the claim, so that it has no effect
    make_all_due(database)
    assert len(take_due(database)) == 1
    assert registry.get(database, running) == running


def test_job_queued_for_a_retry_is_due_at_its_start_time(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    registry.fail(database, registry.claimed(database, job_id=first.id), retry=registry.AT_ONCE)
    assert take_due(database) == [first.id]
    later = values.RetryPolicy(base_delay=60)
    registry.fail(database, registry.claimed(database, job_id=second.id), retry=later)
    assert take_due(database) == []
    make_all_due(database)
    assert sorted(take_due(database)) == sorted([first.id, second.id])


def test_job_whose_parents_finished_is_due_at_once(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.succeed(database, registry.claimed(database))
    assert take_due(database) == [child.id]
