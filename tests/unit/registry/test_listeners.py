"""Announcements of state changes to the listeners of plugins."""

from __future__ import annotations

import contextlib
import threading

import pytest
import sqlalchemy as sa
from support import registry
from support.fleet import wait_until

from finch_hub.registry import attempts, jobs, listeners, settlements, tables, transitions, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState

Told = list[tuple[str, JobState]]


def register(database: Database, *names: str) -> None:
    with database.write() as session:
        listeners.register(session, names)


def take(database: Database, name: str = "bell", caller: str = "a", limit: int = 1000) -> list[values.StateChange]:
    with database.write() as session:
        return listeners.take(session, name, caller, limit=limit)


def hear(database: Database, name: str = "bell", limit: int = 1000) -> Told:
    """Take all changes that a listener has not heard, and record that it heard them."""
    changes = take(database, name, limit=limit)
    with database.write() as session:
        listeners.record_success(session, name, changes)
    return [(change.job.id, change.job.state) for change in changes]


def let_pass(database: Database, seconds: float) -> None:
    """Make everything that waits due for so many seconds."""
    with database.write() as session:
        session.execute(sa.update(tables.announcements).values(due_at=types.later(-seconds)))


def run_everything(database: Database) -> None:
    """Change the states of jobs in every way that there is."""
    submit, at_once = registry.submit, registry.AT_ONCE
    succeeded = registry.claimed(database, job_id=submit(database).id)
    follower = submit(database, depends_on=[succeeded.id])
    with database.write() as session:
        attempts.succeed(session, succeeded, {}, events=[NewEvent(type="message", message="done")])
    assert registry.get(database, follower).state is JobState.QUEUED
    failed = registry.claimed(database, job_id=submit(database).id)
    chain = [submit(database, depends_on=[failed.id])]
    chain.append(submit(database, depends_on=[chain[0].id]))
    with database.write() as session:
        attempts.fail(session, failed, "a reason", retry=at_once)
    failed = registry.claimed(database, job_id=failed.id)
    with database.write() as session:
        attempts.fail(session, failed, "a reason")
    assert registry.get(database, chain[1]).state is JobState.FAILED
    with database.write() as session:
        jobs.retry(session, failed.id)
    lost = [registry.claimed(database, job_id=submit(database).id, lease=-1) for _ in range(2)]
    waiting = submit(database, depends_on=[lost[1].id])
    with database.write() as session:
        jobs.request_cancel(session, lost[1].id)
    with database.write() as session:
        attempts.expire_leases(session, at_once)
    while settlements.settle_due(database):
        pass
    assert registry.get(database, waiting).state is JobState.FAILED
    handed_back = registry.claimed(database, job_id=submit(database).id)
    with database.write() as session:
        attempts.hand_back(session, handed_back)
    passed_on = registry.claimed(database, job_id=submit(database).id)
    with database.write() as session:
        attempts.pass_on(session, passed_on, "no disk", policy=at_once, alone="wait")
    set_aside = registry.claimed(database, job_id=submit(database).id)
    with database.write() as session:
        attempts.set_aside(session, set_aside, "unknown", version="1")
    queued = submit(database)
    with database.write() as session:
        jobs.request_cancel(session, queued.id)


def list_state_events(database: Database) -> Told:
    with database.read() as session:
        rows = session.execute(
            sa.select(tables.job_events.c.job_id, tables.job_events.c.data)
            .where(tables.job_events.c.type == "state")
            .order_by(tables.job_events.c.job_id, tables.job_events.c.seq)
        )
        return [(row.job_id, JobState(row.data["state"])) for row in rows]


def test_every_listener_hears_every_change_however_it_happened(database: Database) -> None:
    register(database, "bell", "mail")
    run_everything(database)
    told = list_state_events(database)
    assert {state for _, state in told} == set(JobState)
    for name in ("bell", "mail"):
        heard = hear(database, name)
        assert sorted(heard, key=lambda change: change[0]) == told  # the sort keeps the order within a job
        assert hear(database, name) == []


def test_nothing_is_written_without_a_listener_and_a_new_one_hears_from_then_on(database: Database) -> None:
    run_everything(database)
    register(database, "bell")
    assert hear(database) == []
    job = registry.submit(database)
    assert hear(database) == [(job.id, JobState.QUEUED)]


def test_change_that_is_rolled_back_is_not_heard(database: Database) -> None:
    register(database, "bell")
    job = registry.submit(database)
    hear(database)
    with contextlib.suppress(ZeroDivisionError), database.write() as session:
        jobs.request_cancel(session, job.id)
        raise ZeroDivisionError
    assert hear(database) == []


def test_change_is_committed_while_its_listener_is_forgotten(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("transactions that write do not overlap on SQLite")
    register(database, "bell")
    with database.write() as session:
        session.execute(sa.update(tables.listeners).values(seen_at=types.later(-8 * 86_400)))
    submitted: list[Job] = []
    thread = threading.Thread(target=lambda: submitted.append(registry.submit(database)))
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    def waits() -> bool:
        with database.read() as session:
            return bool(session.scalar(waiting))

    with database.write() as session:
        assert listeners.forget(session) == ["bell"]
        thread.start()
        wait_until(lambda: waits() or not thread.is_alive(), "the submission to wait for the listener")
    thread.join()
    assert [job.state for job in submitted] == [JobState.QUEUED]


def test_listener_hears_the_job_as_it_was_after_each_change(database: Database) -> None:
    register(database, "bell")
    job = registry.claimed(database, job_id=registry.submit(database).id, worker="first")
    with database.write() as session:
        attempts.fail(session, job, "no memory", retry=registry.AT_ONCE)
    job = registry.claimed(database, job_id=job.id, worker="second")
    with database.write() as session:
        attempts.succeed(session, job, {"adapter": "finch/1"})

    def describe(told: Job) -> tuple[object, ...]:
        return told.state.value, told.attempts, told.worker, told.reason, told.result, told.finished_at is not None

    assert [describe(change.job) for change in take(database)] == [
        ("queued", 0, None, None, None, False),
        ("running", 1, "first", None, None, False),
        ("queued", 1, None, "no memory", None, False),
        ("running", 2, "second", None, None, False),
        ("succeeded", 2, "second", None, {"adapter": "finch/1"}, True),
    ]


def test_transaction_that_commits_late_is_heard_as_well(database: Database) -> None:
    """On PostgreSQL, a change may be committed after one that was made later."""
    register(database, "bell")
    if database.is_sqlite:
        pytest.skip("transactions that write do not overlap on SQLite")
    is_written, may_commit = threading.Event(), threading.Event()
    late: list[Job] = []

    def submit_late() -> None:
        with database.write() as session:
            late.append(registry.submit_job(session, registry.train_spec()))
            transitions.insert_events(session)
            is_written.set()
            assert may_commit.wait(60)

    thread = threading.Thread(target=submit_late)
    thread.start()
    assert is_written.wait(60)
    soon = registry.submit(database)
    assert hear(database) == [(soon.id, JobState.QUEUED)]
    may_commit.set()
    thread.join()
    assert hear(database) == [(late[0].id, JobState.QUEUED)]


def test_one_caller_at_a_time_calls_a_listener(database: Database) -> None:
    register(database, "bell", "mail")
    job = registry.submit(database)
    assert len(take(database, caller="a")) == len(take(database, caller="a")) == 1
    with database.read() as session:
        assert listeners.has_due(session, "bell", "a")
        assert not listeners.has_due(session, "bell", "b")
        assert listeners.has_due(session, "mail", "b")
    assert take(database, caller="b") == []
    with database.write() as session:
        listeners.release(session, "bell", "b")
    assert take(database, caller="b") == []
    with database.write() as session:
        listeners.release(session, "bell", "a")
    assert [change.job.id for change in take(database, caller="b")] == [job.id]


@pytest.mark.parametrize(("first", "second"), [("bell", "mail"), ("mail", "bell")])
def test_listener_has_only_changes_of_its_own(database: Database, first: str, second: str) -> None:
    register(database, first, second)
    registry.submit(database)
    assert len(hear(database, first)) == 1
    with database.read() as session:
        assert not listeners.has_due(session, first, "a")
        assert listeners.has_due(session, second, "a")
    let_pass(database, 8 * 86_400)
    with database.write() as session:
        assert listeners.skip_old(session, first) == 0
        assert listeners.skip_old(session, second) == 1


@pytest.mark.parametrize("seconds", [-1, 3600])  # as a clock that jumped leaves it
def test_lease_of_a_caller_that_was_killed_ends(database: Database, seconds: float) -> None:
    register(database, "bell")
    registry.submit(database)
    assert take(database, caller="killed")
    with database.write() as session:
        session.execute(sa.update(tables.listeners).values(called_until=types.later(seconds)))
    assert take(database, caller="b")


def test_change_is_skipped_after_some_calls_that_failed_and_delays_no_other(database: Database) -> None:
    register(database, "bell", "mail")
    first = registry.submit(database)
    for number in range(listeners.MAX_CALLS):
        (change,) = take(database)
        assert (change.job.id, change.failed_calls) == (first.id, number)
        with database.write() as session:
            is_repeated = listeners.record_failure(session, "bell", change, "ValueError: no bell")
        assert is_repeated == (number < listeners.MAX_CALLS - 1)
        assert take(database) == []
        if number == 0:
            other = registry.submit(database)
            assert hear(database) == [(other.id, JobState.QUEUED)]
            with database.read() as session:
                assert listeners.find(session)[0].trouble == "ValueError: no bell", "the first one still fails"
        let_pass(database, 1)
    with database.read() as session:
        bell, mail = listeners.find(session)
    assert bell == values.Listener(name="bell", waiting=0, skipped=1, trouble="ValueError: no bell")
    assert mail == values.Listener(name="mail", waiting=2, skipped=0)
    registry.submit(database)
    assert len(hear(database)) == 1
    with database.read() as session:
        assert listeners.find(session)[0].trouble is None


def test_changes_and_listeners_that_waited_for_a_week_are_forgotten(database: Database) -> None:
    register(database, "bell", "mail")
    registry.submit(database)
    let_pass(database, 8 * 86_400)
    new = registry.submit(database)
    with database.write() as session:
        assert listeners.skip_old(session, "bell") == 1
        assert listeners.forget(session) == []
        gone = sa.update(tables.listeners).where(tables.listeners.c.name == "mail")
        session.execute(gone.values(seen_at=types.later(-8 * 86_400)))
        assert listeners.forget(session) == ["mail"]
        assert listeners.find(session) == [values.Listener(name="bell", waiting=1, skipped=1)]
    assert hear(database) == [(new.id, JobState.QUEUED)]


def test_job_of_which_a_listener_has_not_heard_everything_is_not_pruned(database: Database) -> None:
    register(database, "bell")
    job = registry.submit(database)
    with database.write() as session:
        jobs.request_cancel(session, job.id)
    with database.write() as session:
        assert jobs.prune(session, beyond=0) == []
    hear(database)
    with database.write() as session:
        assert jobs.prune(session, beyond=0) == [job.id]


@pytest.mark.parametrize("state", ["hibernating", ["failed"], {}])
def test_state_that_cannot_be_read_is_heard_as_the_job_is_now(state: object, database: Database) -> None:
    """The event is of another version, or damaged."""
    register(database, "bell")
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.update(tables.job_events).values(data={"state": state, "attempt": 0}))
    assert hear(database) == [(job.id, JobState.QUEUED)]
