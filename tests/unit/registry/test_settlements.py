"""Ends of jobs on which many others depend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzzing, registry
from support.services import Databases

from finch_hub import errors
from finch_hub.registry import attempts, jobs, settlements, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import FINAL, Job, JobState

MANY = 300  # more than one transaction settles, and more than Python's recursion would reach


@pytest.fixture(scope="module")
def shared_database(databases: Databases) -> Iterator[Database]:
    """One database for all examples of a test."""
    url = databases.new()
    database = Database(url, allow_insecure=True)
    yield database
    database.close()
    databases.drop(url)


def submit_chain(database: Database, length: int) -> list[Job]:
    with database.write() as session:
        chain = [registry.submit_job(session, registry.train_spec())]
        for _ in range(length - 1):
            chain.append(registry.submit_job(session, registry.train_spec(), depends_on=[chain[-1].id]))
    return chain


def submit_fan(database: Database, parents: Sequence[Job], size: int) -> list[Job]:
    new = values.NewJob.of_spec(registry.train_spec(), depends_on=tuple(parent.id for parent in parents))
    with database.write() as session:
        return jobs.submit_many(session, [new] * size)


def settle_all(database: Database) -> int:
    """Settle what is due, and return the number of transactions."""
    count = 0
    while settlements.settle_due(database):
        count += 1
        assert count < 10_000
    return count


def states(database: Database, of: Sequence[Job]) -> list[JobState]:
    with database.read() as session:
        return [jobs.get(session, job.id).state for job in of]


def end(database: Database, job: Job, how: str) -> None:
    if how == "cancelled":
        registry.cancel(database, job)
    elif how == "failed":
        registry.fail(database, registry.claimed(database, job_id=job.id), "it broke")
    elif how == "succeeded":
        registry.succeed(database, registry.claimed(database, job_id=job.id))
    else:
        registry.claimed(database, job_id=job.id, lease=-1)
        registry.expire(database, values.RetryPolicy(max_attempts=1, base_delay=0))


def set_trap(database: Database, job: Job) -> None:
    """Let the database refuse changes of a job."""
    if database.is_sqlite:
        trap = [
            f"CREATE TRIGGER trap BEFORE UPDATE ON jobs WHEN OLD.id = '{job.id}'"
            " BEGIN SELECT RAISE(ABORT, 'the row is damaged'); END"
        ]
    else:
        trap = [
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'the row is damaged'; END $$",
            f"CREATE TRIGGER trap BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.id = '{job.id}')"
            " EXECUTE FUNCTION refuse()",
        ]
    with database.write() as session:
        for statement in trap:
            session.execute(sa.text(statement))


def remove_trap(database: Database, *, is_due: bool = True) -> None:
    with database.write() as session:
        session.execute(sa.text("DROP TRIGGER trap" if database.is_sqlite else "DROP TRIGGER trap ON jobs"))
    if is_due:
        make_due(database)


def make_due(database: Database) -> None:
    with database.write() as session:
        session.execute(sa.update(tables.settlements).values(due_at=types.later(-1)))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "failed", "lost"])
def test_chain_of_any_length_fails_with_its_root(database: Database, how: str) -> None:
    chain = submit_chain(database, MANY)
    end(database, chain[0], how)
    settle_all(database)
    assert states(database, chain[1:]) == [JobState.FAILED] * (MANY - 1)
    root = registry.get(database, chain[0])
    assert root.state is (JobState.CANCELLED if how == "cancelled" else JobState.FAILED)
    what = f"was {how}" if how == "cancelled" else f"failed: {root.reason}"
    first, last = registry.get(database, chain[1]), registry.get(database, chain[-1])
    assert first.reason == f"job {root.id}, which this job depends on, {what}"
    assert last.reason == f"job {root.id}, which this job depends on through job {chain[-2].id}, {what}"


@pytest.mark.parametrize("how", ["cancelled", "failed", "lost", "succeeded"])
def test_all_dependents_of_one_job_are_settled(database: Database, how: str) -> None:
    root = registry.submit(database)
    fan = submit_fan(database, [root], MANY)
    end(database, root, how)
    if how != "lost":
        assert 0 < states(database, fan).count(JobState.WAITING) < MANY, "one transaction settles some"
    settle_all(database)
    assert states(database, fan) == [JobState.QUEUED if how == "succeeded" else JobState.FAILED] * MANY
    with database.read() as session:
        events = [event.data for job in fan for event in jobs.list_events(session, job.id)]
    assert len(events) == 2 * MANY


@pytest.mark.slow
def test_each_transaction_settles_a_bounded_number(database: Database) -> None:
    root = registry.submit(database)
    fan = submit_fan(database, [root], MANY)
    end(database, root, "failed")
    left = MANY
    while settlements.settle_due(database):
        now_left = states(database, fan).count(JobState.WAITING)
        assert left - now_left <= 2 * settlements._BATCH
        left = now_left
    assert left == 0


def test_first_dependent_can_be_claimed_by_the_transaction_that_ends_its_parent(database: Database) -> None:
    chain = submit_chain(database, 3)
    registry.succeed(database, registry.claimed(database))
    assert registry.claimed(database).id == chain[1].id


@pytest.mark.slow
def test_dependent_that_cannot_be_settled_delays_no_other(database: Database) -> None:
    root, other = registry.submit(database), registry.submit(database)
    fan = submit_fan(database, [root], MANY)
    others = submit_fan(database, [other], MANY)
    set_trap(database, fan[5])
    end(database, root, "failed")
    end(database, other, "succeeded")
    settle_all(database)
    assert states(database, fan[:5] + fan[6:]) == [JobState.FAILED] * (MANY - 1)
    assert states(database, others) == [JobState.QUEUED] * MANY
    assert registry.get(database, fan[5]).state is JobState.WAITING
    with database.read() as session:
        assert settlements.find_troubles(session) == {root.id: f"job {fan[5].id}: the row is damaged"}
    remove_trap(database)
    settle_all(database)
    assert registry.get(database, fan[5]).state is JobState.FAILED
    with database.read() as session:
        assert settlements.find_troubles(session) == {}


def test_lost_job_that_cannot_be_ended_delays_no_other(database: Database) -> None:
    lost = [registry.claimed(database, lease=-1) for _ in [registry.submit(database) for _ in range(5)]]
    set_trap(database, lost[1])
    assert [job.id for job in registry.expire(database)] == [job.id for job in lost if job.id != lost[1].id]
    assert registry.get(database, lost[1]).state is JobState.RUNNING
    with database.read() as session:
        assert settlements.find_troubles(session) == {lost[1].id: "the row is damaged"}
    remove_trap(database, is_due=False)
    assert registry.expire(database) == [], "not again at once"
    make_due(database)
    settle_all(database)
    assert [job.id for job in registry.expire(database)] == [lost[1].id]


def test_dependent_waits_for_its_other_parents(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    fan = submit_fan(database, [first, second], MANY)
    end(database, first, "succeeded")
    settle_all(database)
    assert states(database, fan) == [JobState.WAITING] * MANY
    end(database, second, "succeeded")
    settle_all(database)
    assert states(database, fan) == [JobState.QUEUED] * MANY


def test_job_with_dependents_that_wait_can_be_deleted_after_them(database: Database) -> None:
    root = registry.submit(database)
    fan = submit_fan(database, [root], MANY)
    end(database, root, "failed")
    pruned: set[str] = set()
    with database.write() as session:
        pruned.update(jobs.prune(session, older_than=-1))
    assert root.id not in pruned, "some dependents wait for it"
    settle_all(database)
    with database.write() as session:
        pruned.update(jobs.prune(session, older_than=-1))
    assert pruned == {root.id, *(job.id for job in fan)}


@pytest.mark.slow
@settings(max_examples=fuzzing.examples(30), deadline=None)
@given(data=st.data())
def test_every_graph_ends_as_its_parents_say(data: st.DataObject, shared_database: Database) -> None:
    """Compare with a reference: a job ends well only if all its parents did."""
    size = data.draw(st.integers(2, 12))
    graph = [data.draw(st.sets(st.integers(0, max(0, each - 1)), max_size=min(each, 3))) for each in range(size)]
    made: list[Job] = []
    for parents in graph:
        made.append(registry.submit(shared_database, depends_on=[made[parent].id for parent in sorted(parents)]))
    expected: dict[int, str] = {}
    while len(expected) < size:
        ready = [n for n in range(size) if n not in expected and all(expected.get(p) == "succeeded" for p in graph[n])]
        assert [n for n in range(size) if registry.get(shared_database, made[n]).state is JobState.QUEUED] == ready
        chosen = data.draw(st.sampled_from(ready))
        expected[chosen] = data.draw(st.sampled_from(["succeeded", "failed", "cancelled", "lost"]))
        end(shared_database, made[chosen], expected[chosen])
        settle_all(shared_database)
        for number, parents in enumerate(graph):  # parents come first
            if number not in expected and any(expected.get(p, "succeeded") != "succeeded" for p in parents):
                expected[number] = "failed"
    found = states(shared_database, made)
    wanted = {"lost": "failed"}
    assert [state.value for state in found] == [wanted.get(expected[n], expected[n]) for n in range(size)]
    assert FINAL.issuperset(found)


def test_job_cannot_depend_on_one_whose_dependents_are_still_to_be_settled(database: Database) -> None:
    root = registry.submit(database)
    fan = submit_fan(database, [root], MANY)
    end(database, root, "failed")
    with pytest.raises(errors.Conflict, match="no job can depend on"):
        registry.submit(database, depends_on=[root.id])
    late = registry.submit(database, depends_on=[fan[-1].id])
    settle_all(database)
    assert registry.get(database, late).state is JobState.FAILED


def test_dependent_whose_row_was_locked_is_tried_again_soon(database: Database) -> None:
    """A timeout of a lock or a deadlock passes, so that nobody waits ten minutes for it."""
    if database.is_sqlite:
        pytest.skip("SQLite has no locks of rows")
    parent = registry.submit(database)
    (child,) = submit_fan(database, [parent], 1)
    claimed = registry.claimed(database, job_id=parent.id)
    with database.write() as locking:
        locking.execute(sa.select(tables.jobs.c.id).where(tables.jobs.c.id == child.id).with_for_update())
        with database.write() as session:
            session.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
            attempts.succeed(session, claimed, {})
    assert registry.get(database, parent).state is JobState.SUCCEEDED
    with database.read() as session:
        (trouble,) = settlements.find_troubles(session).values()
        soon = session.scalar(sa.select(tables.settlements.c.due_at <= types.later(15.0)))
    assert "lock timeout" in trouble
    assert soon


def test_dependents_of_a_job_whose_attempt_has_no_record_are_settled(database: Database) -> None:
    """Someone may have deleted the record, or restored it from a backup of another moment."""
    for end_job, state in ((registry.succeed, JobState.QUEUED), (registry.fail, JobState.FAILED)):
        parent, dependent = submit_chain(database, 2)
        job = registry.claimed(database, job_id=parent.id)
        with database.write() as session:
            session.execute(sa.delete(tables.attempts))
        end_job(database, job)
        settle_all(database)
        assert states(database, [dependent]) == [state]
