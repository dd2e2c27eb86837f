"""Indexes that the databases use for the frequent queries of the queue."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from support import registry
from support.services import Databases

from finch_hub.registry import (
    attempts,
    claims,
    datasets,
    jobs,
    listeners,
    outbox,
    queue_status,
    stuck_jobs,
    tables,
    types,
    values,
)
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState, Requirements

QUERIES: dict[str, tuple[Callable[[Session], Any], str]] = {
    "claim": (
        lambda s: claims.claim(s, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT, warm_base="tiny@"),
        "ix_jobs_claim",
    ),
    "wake": (outbox.take_due, "ix_jobs_due"),
    "expire": (lambda s: attempts.expire_leases(s, values.RetryPolicy()), "ix_jobs_running"),
    "list running": (lambda s: jobs.find(s, states={JobState.RUNNING}), "ix_jobs_running"),
    "list failed": (lambda s: jobs.find(s, states={JobState.FAILED, JobState.CANCELLED}), "ix_jobs_ended"),
    "prune": (lambda s: jobs.prune(s, older_than=10**6, limit=10), "ix_jobs_finished"),
    "prune old ones": (lambda s: jobs.prune(s, older_than=0, limit=10), "ix_jobs_finished"),
    "prune beyond": (lambda s: jobs.prune(s, beyond=100, limit=10), "ix_jobs_finished"),
    "list waiting": (lambda s: jobs.find(s, states={JobState.WAITING}), "ix_jobs_waiting"),
    "count": (jobs.count, "ix_jobs_ended"),
    "list queued": (lambda s: jobs.find(s, states={JobState.QUEUED}), "ix_jobs_unfinished"),
    "find what was set aside": (jobs.find_set_aside, "ix_jobs_unfinished"),
    "status": (lambda s: queue_status.read(s, lost_after=60), "ix_jobs_"),
    "begin of an id": (lambda s: jobs.find_id(s, "abcdefg", owner="ana"), "autoindex_jobs"),
    "last begin of an id": (lambda s: jobs.find_id(s, "zzzzzz", owner="ana"), "autoindex_jobs"),
    "last of an owner": (lambda s: jobs.find(s, owner="ana", limit=1), "ix_jobs_of_owner"),
    "find a claim": (lambda s: claims.find_claimed(s, "token"), "ix_jobs_running"),
}


def vacuum(database: Database) -> None:
    """Let PostgreSQL do at once what it does after a while."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


@pytest.fixture(scope="module")
def finished_jobs(databases: Databases) -> Iterator[str]:
    """URL of a database with many finished jobs and a few queued ones, for tests to copy."""
    url = databases.new()
    database = Database(url, allow_insecure=True)
    new = [values.NewJob.of_spec(registry.merge_spec())] * 2000
    with database.write() as session:
        jobs.submit_many(session, new)
        session.execute(sa.update(tables.jobs).values(state=JobState.SUCCEEDED, finished_at=types.now(), ring_at=None))
        rows = [{"digest": f"{number:064x}", "format": "messages", "examples": 1, "bytes": 1} for number in range(2000)]
        session.execute(sa.insert(datasets.datasets), rows)
        jobs.submit_many(session, new[:20])
    if not database.is_sqlite:  # PostgreSQL does so after a while, SQLite never
        vacuum(database)
    database.close()
    yield url
    databases.drop(url)


@pytest.fixture(scope="module")
def waiting_jobs(databases: Databases, finished_jobs: str) -> Iterator[str]:
    """URL of a copy with many queued jobs besides, for tests to copy."""
    url = databases.copy(finished_jobs)
    database = Database(url, allow_insecure=True)
    with database.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec())] * 5000)
    if not database.is_sqlite:
        vacuum(database)
    database.close()
    yield url
    databases.drop(url)


@pytest.fixture
def history(databases: Databases, finished_jobs: str) -> Iterator[Database]:
    """A database with many finished jobs and a few queued ones."""
    yield from open_copy(databases, finished_jobs)


@pytest.fixture
def queue(databases: Databases, waiting_jobs: str) -> Iterator[Database]:
    """A database with many finished jobs and many queued ones."""
    yield from open_copy(databases, waiting_jobs)


def open_copy(databases: Databases, template: str) -> Iterator[Database]:
    url = databases.copy(template)
    database = Database(url, allow_insecure=True)
    yield database
    database.close()
    databases.drop(url)


def test_frequent_queries_do_not_read_finished_jobs(history: Database) -> None:
    for name, (query, index) in QUERIES.items():
        plans = plans_of(history, query)
        for plan in plans:
            assert not re.search(r"Seq Scan on jobs|SCAN jobs(?! USING)", plan), (name, plan)
        if history.is_sqlite:  # PostgreSQL may choose another index that is as good
            assert index in plans[0], (name, plans[0])


def test_begin_of_an_id_is_found_by_its_bytes_in_any_collation(history: Database) -> None:
    """Czech sorts "ch" after "h". Each PostgreSQL has POSIX, for whose ranges an index of bytes does not serve."""
    if history.is_sqlite:
        pytest.skip("collations of PostgreSQL")
    with history.write() as session:
        session.execute(sa.text('ALTER TABLE jobs ALTER COLUMN id TYPE varchar(32) COLLATE "POSIX"'))
    (plan,) = plans_of(history, lambda session: jobs.find_id(session, "chchch", owner="ana"))
    assert "ix_jobs_id_bytes" in plan
    assert_sorts_none(plan)


def test_last_job_of_an_owner_is_found_without_reading_those_of_others(history: Database) -> None:
    """By number, which orders all jobs, those of others would be read until one is this owner's."""
    with history.write() as session:
        job = registry.submit_job(session, registry.merge_spec(), owner="ana")
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), owner="ben")] * 2000)
    if not history.is_sqlite:
        vacuum(history)

    def find(session: Session) -> None:
        assert jobs.find_id(session, jobs.LAST, owner="ana") == job.id

    (plan,) = plans_of(history, find)
    assert "ix_jobs_of_owner" in plan
    assert_sorts_none(plan)


@pytest.mark.parametrize("length", [64, 63])
def test_data_set_is_found_without_reading_the_others(history: Database, length: int) -> None:
    digest = f"{7:064x}"
    plans = plans_of(history, lambda session: datasets.get(session, digest[:length]), "datasets")
    assert plans
    for plan in plans:
        assert not re.search(r"Seq Scan on datasets|SCAN datasets", plan), plan
    if history.is_sqlite:
        assert any("digest" in plan for plan in plans)


def test_claim_past_jobs_that_fit_nobody_reads_few_of_them(history: Database) -> None:
    """Each statement has a limit and an index whose order it follows, or looks at one job of each group."""
    with history.write() as session:
        unfit = values.NewJob.of_spec(registry.merge_spec(), priority=1, requirements=Requirements(labels=("none",)))
        jobs.submit_many(session, [unfit] * 2000)
    if not history.is_sqlite:
        vacuum(history)

    def claim(session: Session) -> None:
        job = claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT)
        assert job is not None
        assert job.priority == 0

    plans = plans_of(history, claim)
    assert not [plan for plan in plans if re.search(r"Seq Scan on jobs|SCAN jobs(?! USING)|SCAN any_job(?! US)", plan)]
    groups, first = [plan for plan in plans if "ix_jobs_needs" in plan][-2:]
    for plan in (groups, first):
        assert "ix_jobs_claim" not in plan, plan
        assert not re.search(r"Sort|TEMP B-TREE", plan), plan


@pytest.mark.parametrize(
    "look",
    [
        outbox.has_due,
        outbox.has_unsent,
        outbox.has_queued,
        outbox.take_due,
        lambda s: attempts.expire_leases(s, values.RetryPolicy()),
        lambda s: stuck_jobs.settle(s, after=0),
    ],
    ids=["due", "unsent", "queued", "take", "expire", "stuck"],
)
def test_worker_that_looks_does_not_read_the_jobs_that_wait(queue: Database, look: Callable[[Session], Any]) -> None:
    plans = plans_of(queue, look)
    assert plans
    for plan in plans:
        assert not re.search(r"Seq Scan on jobs|SCAN jobs(?! USING)", plan), plan
        assert_sorts_none(plan)


def test_status_of_a_long_queue_is_read_in_the_order_of_indexes(history: Database) -> None:
    """Its statements have limits, which help only if no statement sorts or filters what waits."""
    with history.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), priority=n % 3) for n in range(2000)])
    if not history.is_sqlite:
        vacuum(history)
    plans = plans_of(history, queue_status.read)
    assert len(plans) > 5
    for plan in plans:
        assert not re.search(r"Seq Scan on jobs|SCAN jobs(?! USING)", plan), plan
        if "ix_jobs_needs_by_turn" in plan or "ix_jobs_claim_by_turn" in plan:
            assert "Filter" not in plan, plan
            assert "Sort" not in plan.partition("Limit")[2], plan
    assert any("ix_jobs_needs" in plan for plan in plans)


def test_claim_past_owners_at_their_limit_reads_few_of_their_jobs(history: Database) -> None:
    """Each owner is looked up in an index, and the jobs of owners at their limit are not read."""
    with history.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), priority=1, owner="ada")] * 2000)
        registry.submit_job(session, registry.merge_spec(), owner="ben")
    if not history.is_sqlite:
        vacuum(history)
    limited = registry.ANY_SLOT.evolve(owner_running=1)
    assert registry.claimed(history, capabilities=limited).owner == "ada"

    def claim(session: Session) -> None:
        job = claims.claim(session, worker="w", lease_seconds=60, capabilities=limited)
        assert job is not None
        assert job.owner != "ada"

    plans = plans_of(history, claim)
    # PostgreSQL may read a table of this size for the last step, which takes the best of the owners' jobs.
    unwanted = r"Seq Scan on jobs \w+|SCAN (jobs|own|following)(?! USING)"
    assert not [plan for plan in plans if re.search(unwanted, plan)]
    is_of_owners = re.compile("own USING INDEX ix_jobs_owner|ix_jobs_owner on jobs own")
    (of_owners,) = (plan for plan in plans if is_of_owners.search(plan))
    assert not re.search(r"ix_jobs_(needs|unfinished)", of_owners), of_owners


@pytest.mark.parametrize("owner", ["ada", "ben", "new"])
def test_submission_to_a_long_queue_reads_few_of_its_jobs(history: Database, owner: str) -> None:
    with history.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), owner="ada")] * 2000)
        registry.submit_job(session, registry.merge_spec(), owner="ben")
    if not history.is_sqlite:
        vacuum(history)
    plans = plans_of(history, lambda session: registry.submit_job(session, registry.merge_spec(), owner=owner))
    assert plans
    for plan in plans:
        assert not re.search(r"Seq Scan on jobs|SCAN (jobs|following)(?! USING)", plan), plan
        assert_sorts_none(plan)


def test_queueing_of_a_dependent_reads_few_jobs(history: Database) -> None:
    parent = registry.submit(history, priority=9, owner="ada")
    child = registry.submit(history, owner="ada", depends_on=[parent.id])
    running = registry.claimed(history)
    with history.write() as session:
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec(), owner="ada")] * 2000)
    if not history.is_sqlite:
        vacuum(history)
    plans = plans_of(history, lambda session: attempts.succeed(session, running, {}))
    assert registry.get(history, child).state is JobState.QUEUED
    assert any("ix_jobs_turns_of_owner" in plan for plan in plans)
    for plan in plans:
        assert not re.search(r"Seq Scan on jobs|SCAN (jobs|following)(?! USING)", plan), plan


@pytest.mark.parametrize("number", [20, 2000])
def test_listener_reads_only_what_it_is_to_hear(number: int, history: Database) -> None:
    with history.write() as session:
        listeners.register(session, ["bell"])
        jobs.submit_many(session, [values.NewJob.of_spec(registry.merge_spec())] * number)
    if not history.is_sqlite:
        vacuum(history)

    def hear(session: Session) -> None:
        assert listeners.has_due(session, "bell", "a")
        changes = listeners.take(session, "bell", "a", limit=10)
        assert len(changes) == 10
        listeners.record_success(session, "bell", changes[1:])
        listeners.record_failure(session, "bell", changes[0], "no bell")

    plans = plans_of(history, hear, "announcements")
    assert plans
    for plan in plans:
        assert not re.search(r"Seq Scan on (jobs|events)|SCAN (jobs|events|announcements)", plan), plan
        if number == 2000:
            assert not re.search(r"Sort|ORDER BY", plan), plan


def assert_sorts_none(plan: str) -> None:
    """Assert that a plan sorts nothing, except jobs that run: no more than there are slots."""
    assert "ix_jobs_running" in plan or not re.search(r"Sort|ORDER BY|TEMP B-TREE", plan), plan


def plans_of(database: Database, query: Callable[[Session], Any], table: str = "jobs") -> list[str]:
    """Return the query plan of each statement that reads a table."""
    plans: list[str] = []
    with database.write() as session:
        connection = session.connection()

        def explain(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if not many and table in statement and not statement.startswith(("EXPLAIN", "INSERT")):
                other = context.root_connection.connection.cursor()
                prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
                other.execute(prefix + statement, parameters)
                plans.append("\n".join(str(row[-1]) for row in other.fetchall()))
                other.close()

        sa.event.listen(connection, "before_cursor_execute", explain)
        query(session)
    return plans
