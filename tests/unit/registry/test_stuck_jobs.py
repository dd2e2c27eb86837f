"""Jobs that wait for nothing: they are found, explained and settled, and those that wait for others are not."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub.registry import settlements, stuck_jobs, tables, types
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, JobState


def depend(database: Database, job: Job, *others: Job) -> None:
    """Let a job depend on others alone, whatever the rules say."""
    with database.write() as session:
        session.execute(sa.delete(tables.dependencies).where(tables.dependencies.c.job_id == job.id))
        for position, other in enumerate(others):
            row = {"job_id": job.id, "depends_on": other.id, "position": position}
            session.execute(sa.insert(tables.dependencies).values(row))


def lose_end(database: Database, job: Job, state: JobState) -> None:
    """End a job so that nothing settles its dependents."""
    with database.write() as session:
        ended = {"state": state, "finished_at": types.now(), "reason": "it broke"}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(ended))


def sweep(database: Database) -> None:
    with database.write() as session:
        stuck_jobs.settle(session)
    while settlements.settle_due(database):
        pass


def find(database: Database) -> dict[str, str]:
    with database.read() as session:
        found = stuck_jobs.find(session)
        assert found == {job_id: stuck_jobs.explain(session, job_id) for job_id in found}
    return found


def test_job_that_waits_for_another_is_left_alone(database: Database) -> None:
    first = registry.submit(database)
    second = registry.submit(database, depends_on=(first.id,))
    third = registry.submit(database, depends_on=(second.id, first.id))
    sweep(database)
    assert find(database) == {}
    assert {registry.get(database, job).state for job in (second, third)} == {JobState.WAITING}


def test_job_whose_parents_are_gone_fails_with_its_dependents(database: Database) -> None:
    first = registry.submit(database)
    second = registry.submit(database, depends_on=(first.id,))
    third = registry.submit(database, depends_on=(second.id,))
    with database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == first.id))
    why = "the jobs that this job depends on are no longer in the database"
    assert find(database) == {second.id: why}
    sweep(database)
    assert registry.get(database, second).reason == why
    assert registry.get(database, third).state is JobState.FAILED
    assert find(database) == {}


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_job_whose_parents_have_ended_goes_on_as_they_say(database: Database, state: JobState) -> None:
    parents = [registry.submit(database) for _ in range(2)]
    job = registry.submit(database, depends_on=tuple(parent.id for parent in parents))
    lose_end(database, parents[0], JobState.SUCCEEDED)
    assert find(database) == {}
    lose_end(database, parents[1], state)
    assert find(database) == {job.id: "all jobs that this job depends on have ended"}
    sweep(database)
    expected = JobState.QUEUED if state is JobState.SUCCEEDED else JobState.FAILED
    assert registry.get(database, job).state is expected
    if expected is JobState.FAILED:
        assert parents[1].id in (registry.get(database, job).reason or "")


def test_jobs_that_depend_on_each_other_fail(database: Database) -> None:
    root = registry.submit(database)
    first = registry.submit(database, depends_on=(root.id,))
    second = registry.submit(database, depends_on=(first.id,))
    alone = registry.submit(database, depends_on=(root.id,))
    depend(database, first, second)
    depend(database, alone, alone)
    why = "this job depends on itself or on a job that was submitted later, so it could never run"
    assert find(database) == {first.id: why, alone.id: why}
    sweep(database)
    assert {registry.get(database, job).state for job in (first, second, alone)} == {JobState.FAILED}


def test_job_with_one_ended_and_one_impossible_parent_fails(database: Database) -> None:
    root = registry.submit(database)
    job = registry.submit(database, depends_on=(root.id,))
    later = registry.submit(database)
    depend(database, job, root, later)
    lose_end(database, root, JobState.SUCCEEDED)
    sweep(database)
    assert registry.get(database, job).state is JobState.FAILED


def test_sweeps_go_through_all_waiting_jobs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck_jobs, "_NUM_EXAMINED", 2)
    root, gone = registry.submit(database), registry.submit(database)
    for _ in range(3):
        registry.submit(database, depends_on=(root.id,))
    stuck = registry.submit(database, depends_on=(gone.id,))
    with database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == gone.id))
    seen, after = [], 0
    for _ in range(3):
        with database.write() as session:
            after = stuck_jobs.settle(session, after=after)
        seen.append(registry.get(database, stuck).state)
    assert seen == [JobState.WAITING, JobState.FAILED, JobState.FAILED]
    assert after == 0


def test_job_that_cannot_be_settled_is_set_aside(database: Database) -> None:
    first = registry.submit(database)
    second = registry.submit(database, depends_on=(first.id,))
    with database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == first.id))
    with database.write() as session:
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == second.id).values(last_seq=2**63 - 1))
    with database.write() as session:
        stuck_jobs.settle(session)
    with database.read() as session:
        assert list(settlements.find_troubles(session)) == [second.id]
    assert find(database) == {}
