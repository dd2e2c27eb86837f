from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from support import registry

from finch_hub.registry import attempts, outbox, tables, types, values
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


def clock(database: Database) -> datetime:
    with database.read() as session:
        return session.scalar(sa.select(types.now()))  # type: ignore[return-value]


def test_times_between_messages_are_a_few_seconds_and_a_minute(database: Database) -> None:
    """The submitter sends the first message. A message whose job is still queued is repeated."""
    job = registry.submit(database)

    def postpone() -> None:
        with database.write() as session:
            outbox.postpone(session, [job.id])

    for seconds, change in ((60, lambda: take_due(database)), (10, postpone)):
        make_all_due(database)
        before = clock(database)
        change()
        with database.read() as session:
            due = session.scalar(sa.select(tables.jobs.c.ring_at))
        assert due is not None
        assert before <= due - timedelta(seconds=seconds) <= clock(database)


def test_first_message_of_a_worker_is_due_five_seconds_after_the_submission(database: Database) -> None:
    before = clock(database)
    registry.submit(database)
    with database.read() as session:
        due = session.scalar(sa.select(tables.jobs.c.ring_at))
    assert due is not None
    assert before <= due - timedelta(seconds=5) <= clock(database)


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
    assert has_queued(), "also before its message is due"
    registry.claimed(database)
    assert not has_queued(), "the other one waits"
