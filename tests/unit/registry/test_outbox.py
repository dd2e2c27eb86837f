from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import attempts, claims, jobs, outbox, tables, types, values
from finch_hub.registry.database import Database


def take_due(database: Database, **arguments: int) -> list[str]:
    with database.write() as session:
        return [job.id for job in outbox.take_due(session, **arguments)]


def make_all_due(database: Database) -> None:
    """Move the due time of all jobs into the past, as waiting would."""
    with database.write() as session:
        session.execute(
            sa.update(tables.jobs).where(tables.jobs.c.ring_at.is_not(None)).values(ring_at=types.later(-1))
        )


def hand_back(database: Database, number: int = 1) -> list[str]:
    """Submit jobs and hand them back to the queue, which makes them due. Return their ids."""
    queued = [registry.submit(database).id for _ in range(number)]
    for job_id in queued:
        job = registry.claimed(database, job_id=job_id)
        with database.write() as session:
            attempts.hand_back(session, job)
    return queued


def test_new_job_is_never_due(database: Database) -> None:
    """Its submitter sends the message."""
    registry.submit(database)
    make_all_due(database)
    assert take_due(database) == []


def test_job_of_a_submitter_of_an_earlier_version_is_due_once(database: Database) -> None:
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(ring_at=types.later(5)))
    assert take_due(database) == []
    make_all_due(database)
    assert take_due(database) == [job.id]
    make_all_due(database)
    assert take_due(database) == []


def test_job_of_a_client_of_an_earlier_version_is_found_behind_jobs_that_fit_nobody(database: Database) -> None:
    """Such a client sets `ring_at`, and does not know `needs`."""
    for _ in range(claims.FRONT_JOBS):
        registry.submit(database, device="cuda")
    job = registry.submit(database)
    with database.write() as session:
        old = sa.update(tables.jobs).where(tables.jobs.c.id == job.id)
        session.execute(old.values(needs=None, ring_at=types.later(-1)))
    with database.write() as session:
        (due,) = outbox.take_due(session)
    assert due.needs == jobs.hash_needs(job.kind, job.requirements)
    assert registry.claimed(database).id == job.id


def test_due_job_is_taken_once(database: Database) -> None:
    hand_back(database, 3)
    assert len(take_due(database, limit=2)) == 2
    assert len(take_due(database, limit=2)) == 1
    make_all_due(database)
    assert take_due(database) == [], "a job that waits is never due again"


def test_due_job_has_its_queue_and_its_needs(database: Database) -> None:
    (job_id,) = hand_back(database)
    with database.write() as session:
        (due,) = outbox.take_due(session)
    job = registry.get(database, job_id)
    assert due == (job_id, "default", jobs.hash_needs(job.kind, job.requirements))


def test_job_that_is_not_queued_is_not_due(database: Database) -> None:
    waiting, _, cancelled = hand_back(database, 3)
    running = registry.claimed(database, job_id=waiting)
    registry.cancel(database, registry.get(database, cancelled))
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
    assert take_due(database) == [second.id]


def test_job_whose_parents_finished_is_due_at_once(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.succeed(database, registry.claimed(database))
    assert take_due(database) == [child.id]


def test_job_that_was_handed_back_is_due_at_once(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        attempts.hand_back(session, job)
    assert take_due(database) == [job.id]


def test_job_of_a_lost_worker_is_due_when_it_may_start_again(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    for job, policy in ((first, registry.AT_ONCE), (second, values.RetryPolicy(base_delay=600))):
        registry.claimed(database, job_id=job.id, lease=-1)
        registry.expire(database, policy)
    assert take_due(database) == [first.id]
    assert registry.claimed(database).id == first.id
    assert registry.claim(database) is None, "the other waits for its time"


def test_jobs_that_wait_longest_come_first(database: Database) -> None:
    made = [registry.submit(database) for _ in range(3)]
    with database.write() as session:
        for job, seconds in zip(made, (-1, -3, -2), strict=True):
            changed = sa.update(tables.jobs).where(tables.jobs.c.id == job.id)
            session.execute(changed.values(ring_at=types.later(seconds)))
    assert [take_due(database, limit=1) for _ in made] == [[made[1].id], [made[2].id], [made[0].id]]


def test_only_a_queued_job_whose_time_has_come_is_a_reason_to_look(database: Database) -> None:
    def has_due() -> bool:
        with database.read() as session:
            return outbox.has_due(session)

    assert not has_due()
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(ring_at=types.later(3600)))
    assert not has_due()
    make_all_due(database)
    assert has_due()
    running = registry.claimed(database, job_id=job.id)
    assert not has_due()
    with database.write() as session:  # as a statement of another version could leave it
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == running.id).values(ring_at=types.later(-1)))
    assert not has_due()


def test_only_a_queued_job_is_worth_a_look(database: Database) -> None:
    def has_queued() -> bool:
        with database.read() as session:
            return outbox.has_queued(session)

    assert not has_queued()
    first = registry.submit(database)
    registry.submit(database, depends_on=[first.id])
    assert has_queued(), "also without a message"
    registry.claimed(database)
    assert not has_queued(), "the other one waits"
