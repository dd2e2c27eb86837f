from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzzing, registry
from support.services import Databases

from finch_hub import errors
from finch_hub.registry import claims, jobs, owner_limits, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, JobState, Requirements

LIMITED = registry.ANY_SLOT.evolve(owner_running=2)
MANY = 400  # more than the front, so that claims also look behind it


def submit(database: Database, owner: str, count: int = 1, limit: int | None = None, **fields: object) -> list[Job]:
    new = values.NewJob.of_spec(registry.merge_spec(), owner=owner, **fields)
    with database.write() as session:
        return jobs.submit_many(session, [new] * count, owner_unfinished=limit)


def claim(database: Database) -> Job | None:
    return registry.claim(database, capabilities=LIMITED)


def count_by_owner(database: Database, state: JobState) -> Counter[str]:
    with database.read() as session:
        return Counter(session.scalars(sa.select(tables.jobs.c.owner).where(tables.jobs.c.state == state)))


@pytest.fixture(scope="module")
def sqlite_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all examples of a test."""
    made = Databases(tmp_path_factory.mktemp("limits"), None)
    database = Database(made.new())
    yield database
    database.close()
    made.close()


@settings(max_examples=fuzzing.examples(60))
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["ada", "ben", "cleo"]), st.integers(1, 4), st.integers(0, 1)),
            st.sampled_from(["claim", "end"]),
        ),
        max_size=40,
    ),
    limit=st.integers(1, 3),
    front=st.sampled_from([0, 1, 64]),
)
def test_claim_takes_a_job_whenever_an_owner_below_the_limit_has_one(
    sqlite_database: Database, steps: list[tuple[str, int, int] | str], limit: int, front: int
) -> None:
    with sqlite_database.write() as session:
        session.execute(sa.delete(tables.jobs))
    slot = registry.ANY_SLOT.evolve(owner_running=limit)
    queued: dict[str, list[int]] = {"ada": [], "ben": [], "cleo": []}  # priorities
    running: list[Job] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "FRONT_JOBS", front)
        for step in steps:
            if not isinstance(step, str):
                owner, count, priority = step
                submit(sqlite_database, owner, count, priority=priority)
                queued[owner] += [priority] * count
            elif step == "end" and running:
                registry.succeed(sqlite_database, running.pop(0))
            elif step == "claim":
                numbers = Counter(job.owner for job in running)
                allowed = {owner: waiting for owner, waiting in queued.items() if waiting and numbers[owner] < limit}
                job = registry.claim(sqlite_database, capabilities=slot)
                assert (job is None) == (not allowed)
                if job is not None:
                    assert job.owner in allowed
                    assert job.priority == max(map(max, allowed.values()))
                    queued[job.owner].remove(job.priority)
                    running.append(job)


def test_claim_passes_over_owners_at_their_limit(database: Database) -> None:
    submit(database, "ada", 5)
    submit(database, "ben", 1)
    claimed = [claim(database) for _ in range(4)]
    assert [job.owner if job else None for job in claimed] == ["ada", "ben", "ada", None]
    assert claimed[0] is not None
    registry.succeed(database, claimed[0])
    assert registry.claimed(database, capabilities=LIMITED).owner == "ada"


def test_claim_finds_the_job_behind_a_long_queue_of_an_owner_at_the_limit(database: Database) -> None:
    submit(database, "ada", MANY, priority=1)
    submit(database, "ben", 3)
    submit(database, "cleo", 1)
    claimed = [claim(database) for _ in range(6)]
    assert [job.owner if job else None for job in claimed] == ["ada", "ada", "ben", "cleo", "ben", None]


def test_claim_without_a_limit_passes_over_nobody(database: Database) -> None:
    submit(database, "ada", 4)
    assert [registry.claimed(database).owner for _ in range(4)] == ["ada"] * 4


def test_slot_with_a_limit_has_nothing_to_do_while_all_owners_are_at_it(database: Database) -> None:
    submit(database, "ada", 3)
    for _ in range(2):
        claim(database)
    with database.read() as session:
        assert not claims.has_fitting(session, LIMITED)
        assert claims.has_fitting(session, registry.ANY_SLOT)


def test_companions_stay_within_the_limit(database: Database) -> None:
    new = [
        values.NewJob.of_spec(registry.train_spec(), owner=owner, requirements=Requirements(together=True))
        for owner in ("ada", "ada", "ada", "ben")
    ]
    with database.write() as session:
        jobs.submit_many(session, new)
    leader = registry.claimed(database, capabilities=LIMITED)
    with database.write() as session:
        taken = claims.claim_companions(
            session, leader, worker="w", lease_seconds=60, capabilities=LIMITED, limit=8, token="t"
        )
    assert Counter(job.owner for job in [leader, *taken]) == {"ada": 2, "ben": 1}


@pytest.mark.parametrize("num_queued", [12, MANY])
def test_concurrent_claims_stay_within_the_limit(database: Database, num_queued: int) -> None:
    for _ in range(4):
        with database.write() as session:
            session.execute(sa.delete(tables.jobs))
        submit(database, "ada", num_queued)
        submit(database, "ben", 1)
        barrier = threading.Barrier(6)

        def race(_: int, barrier: threading.Barrier = barrier) -> Job | None:
            barrier.wait()
            return claim(database)

        with ThreadPoolExecutor(6) as threads:
            claimed = Counter(job.owner for job in threads.map(race, range(6)) if job)
        assert claimed == {"ada": 2, "ben": 1}
        assert count_by_owner(database, JobState.RUNNING) == claimed


def test_concurrent_claims_and_ends_never_exceed_the_limit(database: Database) -> None:
    """All jobs run, and no moment has more of one owner than its limit."""
    submit(database, "ada", 20)
    submit(database, "ben", 10)
    most: Counter[str] = Counter()
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        idle = 0
        while idle < 20:
            job = claim(database)
            idle = 0 if job else idle + 1
            for owner, count in count_by_owner(database, JobState.RUNNING).items():
                most[owner] = max(most[owner], count)
            if job:
                registry.succeed(database, job)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert count_by_owner(database, JobState.SUCCEEDED) == {"ada": 20, "ben": 10}
    assert max(most.values()) <= 2


def test_submission_beyond_the_limit_is_refused_and_stores_nothing(database: Database) -> None:
    submit(database, "ada", 2, limit=3)
    with pytest.raises(
        errors.Conflict, match=r"owner 'ada' would have more unfinished jobs than 3 .*FINCH_OWNER_UNFINISHED"
    ):
        submit(database, "ada", 2, limit=3)
    assert count_by_owner(database, JobState.QUEUED) == {"ada": 2}
    submit(database, "ben", 3, limit=3)
    submit(database, "ada", 1, limit=3)


def test_waiting_and_running_jobs_count_as_unfinished_and_ended_ones_do_not(database: Database) -> None:
    (parent,) = submit(database, "ada", limit=2)
    running = registry.claimed(database)
    submit(database, "ada", limit=2, depends_on=(parent.id,))
    with pytest.raises(errors.Conflict, match="FINCH_OWNER_UNFINISHED"):
        submit(database, "ada", limit=2)
    registry.succeed(database, running)
    submit(database, "ada", limit=2)


def test_submission_that_returns_an_earlier_job_is_within_the_limit(database: Database) -> None:
    first, second = (submit(database, "ada", limit=1, idempotency_key="key")[0] for _ in range(2))
    assert first.id == second.id


def test_retry_beyond_the_limit_is_refused(database: Database) -> None:
    submit(database, "ada")
    failed = registry.fail(database, registry.claimed(database))
    submit(database, "ada")
    with pytest.raises(errors.Conflict, match="FINCH_OWNER_UNFINISHED"), database.write() as session:
        jobs.retry(session, failed.id, owner_unfinished=1)
    assert registry.get(database, failed).state is JobState.FAILED


def test_concurrent_submissions_stay_within_the_limit(database: Database) -> None:
    for _ in range(5):
        with database.write() as session:
            session.execute(sa.delete(tables.jobs))
        barrier = threading.Barrier(6)

        def race(_: int, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                submit(database, "ada", 2, limit=5)
            except errors.Conflict:
                return False
            return True

        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(race, range(6))) == 2
        assert count_by_owner(database, JobState.QUEUED) == {"ada": 4}


def test_limits_that_are_not_set_cost_no_statement(database: Database) -> None:
    submit(database, "ada", 2)
    statements: list[str] = []
    with database.write() as session:
        sa.event.listen(
            session.connection(), "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
        )
        claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT)
        registry.submit_job(session, registry.merge_spec(), owner="ada")
    assert not [text for text in statements if "advisory" in text or "GROUP BY" in text or "SAVEPOINT" in text]


def test_lock_of_one_owner_keeps_out_only_that_owner(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    with database.write() as first, database.write() as second:
        assert owner_limits.hold_owner(first, "ada", "running")
        assert not owner_limits.hold_owner(second, "ada", "running", wait=False)
        assert owner_limits.hold_owner(second, "ben", "running", wait=False)
        assert owner_limits.hold_owner(second, "ada", "unfinished", wait=False)
