from __future__ import annotations

import base64
import secrets

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_versions, attempts, jobs, queue_status, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job, JobState, Requirements
from finch_hub.workers.runs import train


def states_of(database: Database, job: Job) -> list[str]:
    with database.read() as session:
        return [event.data["state"] for event in jobs.list_events(session, job.id) if event.type == "state"]


def test_submitted_job_is_queued_and_stored_unchanged(database: Database) -> None:
    spec = registry.train_spec("medical")
    requirements = Requirements(queue="night", device="cuda", memory_bytes=2**33, labels=("ada", "big"))
    with database.write() as session:
        job = registry.submit_job(session, spec, requirements=requirements, priority=7)
    assert registry.get(database, job) == job
    assert (job.state, job.spec) == (JobState.QUEUED, spec.model_dump(mode="json"))
    assert (job.requirements, job.priority) == (requirements, 7)
    assert (job.fence, job.attempts, job.started_at, job.finished_at) == (0, 0, None, None)
    assert states_of(database, job) == ["queued"]


def test_batch_keeps_its_order(database: Database) -> None:
    new = [values.NewJob.of_spec(registry.train_spec(f"a{number}")) for number in range(50)]
    with database.write() as session:
        submitted = jobs.submit_many(session, new)
    assert [job.spec for job in submitted] == [item.spec for item in new]
    claimed = [registry.claimed(database) for _ in new]
    assert [job.id for job in claimed] == [job.id for job in submitted]


def test_empty_batch_submits_nothing(database: Database) -> None:
    with database.write() as session:
        assert jobs.submit_many(session, []) == []


def test_idempotency_key_returns_the_first_job(database: Database) -> None:
    first = registry.submit(database, idempotency_key="monday")
    assert registry.submit(database, idempotency_key="monday") == first
    with pytest.raises(errors.Conflict, match=f"'monday' belongs to job {first.id}"):
        registry.submit(database, spec=registry.train_spec("other"), idempotency_key="monday")
    with database.write() as session:
        same = values.NewJob.of_spec(registry.train_spec(), idempotency_key="tuesday")
        one, two = jobs.submit_many(session, [same, same])
    assert one == two
    assert one.id != first.id


def test_job_waits_for_its_parents(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    child = registry.submit(database, spec=registry.merge_spec(), depends_on=[second.id, first.id, second.id])
    assert (child.state, child.depends_on) == (JobState.WAITING, (second.id, first.id))
    registry.succeed(database, registry.claimed(database))
    assert registry.get(database, child).state is JobState.WAITING
    registry.succeed(database, registry.claimed(database))
    assert registry.get(database, child).state is JobState.QUEUED
    assert registry.claimed(database).id == child.id
    assert states_of(database, child) == ["waiting", "queued", "running"]


def test_job_with_finished_parents_is_queued_at_once(database: Database) -> None:
    parent = registry.submit(database)
    registry.succeed(database, registry.claimed(database))
    assert registry.submit(database, depends_on=[parent.id]).state is JobState.QUEUED


def test_failed_parent_fails_its_descendants_with_its_reason(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    grandchild = registry.submit(database, depends_on=[child.id])
    registry.fail(database, registry.claimed(database), "the loss is not finite")
    child, grandchild = registry.get(database, child), registry.get(database, grandchild)
    assert (child.state, grandchild.state) == (JobState.FAILED, JobState.FAILED)
    assert child.reason == f"job {parent.id}, which this job depends on, failed: the loss is not finite"
    assert "the loss is not finite" in (grandchild.reason or "")
    assert child.finished_at is not None


def test_cancelled_parent_fails_waiting_jobs(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.cancel(database, parent)
    assert registry.get(database, child).reason == f"job {parent.id}, which this job depends on, was cancelled"


def test_dependency_on_an_unknown_or_cancelled_job_is_refused(database: Database) -> None:
    parent = registry.submit(database)
    with pytest.raises(errors.NotFound, match="did you mean"):
        registry.submit(database, depends_on=[parent.id[:-1] + "1"])
    registry.cancel(database, parent)
    with pytest.raises(errors.Conflict, match=f"no job can depend on job {parent.id}: it is cancelled"):
        registry.submit(database, depends_on=[parent.id])


def test_find_returns_jobs_newest_first_in_pages(database: Database) -> None:
    made = [registry.submit(database, spec=registry.train_spec(f"a{number}")).id for number in range(5)]
    merge = registry.submit(database, spec=registry.merge_spec()).id
    registry.cancel(database, registry.get(database, made[0]))
    with database.read() as session:
        first = jobs.find(session, limit=4)
        rest = jobs.find(session, limit=4, before=first[-1].id)
        assert [job.id for job in (*first, *rest)] == [merge, *reversed(made)]
        assert jobs.find(session, limit=0) == []
        assert [job.id for job in jobs.find(session, kind="merge")] == [merge]
        assert [job.id for job in jobs.find(session, states={JobState.CANCELLED})] == [made[0]]
        assert jobs.count(session)[JobState.QUEUED] == 5
        assert jobs.count(session)[JobState.FAILED] == 0


def test_cancel_of_a_queued_or_waiting_job_ends_it(database: Database) -> None:
    queued = registry.submit(database)
    waiting = registry.submit(database, depends_on=[queued.id])
    for job in (waiting, queued):
        done = registry.cancel(database, job)
        assert (done.state, registry.cancel(database, job)) == (JobState.CANCELLED, done)
    assert registry.claim(database) is None


def test_cancel_of_a_running_job_is_a_request(database: Database) -> None:
    registry.submit(database)
    running = registry.claimed(database)
    asked = registry.cancel(database, running)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert registry.cancel(database, running) == asked


def test_cancel_of_a_finished_job_is_refused(database: Database) -> None:
    registry.submit(database)
    done = registry.succeed(database, registry.claimed(database))
    with pytest.raises(errors.IllegalTransition, match="cannot be cancelled: it has succeeded already"):
        registry.cancel(database, done)
    with pytest.raises(errors.NotFound):
        registry.cancel(database, done.evolve(id="none"))


def test_retry_submits_a_new_job_that_names_the_old_one(database: Database) -> None:
    old = registry.submit(database, priority=3, queue="night", labels=("ada",))
    with pytest.raises(errors.IllegalTransition), database.write() as session:
        jobs.retry(session, old.id)
    registry.cancel(database, old)
    with database.write() as session:
        new = jobs.retry(session, old.id)
    assert (new.state, new.retry_of, new.spec) == (JobState.QUEUED, old.id, old.spec)
    assert (new.priority, new.requirements) == (old.priority, old.requirements)
    assert registry.get(database, old).state is JobState.CANCELLED


def test_second_retry_returns_the_unfinished_first(database: Database) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    with database.write() as session:
        attempts.fail(session, first, "no")
        again = jobs.retry(session, first.id)
        assert jobs.retry(session, first.id) == again
        jobs.request_cancel(session, again.id)
        third = jobs.retry(session, first.id)
    assert third.id not in (first.id, again.id)


def test_retry_waits_for_the_retries_of_its_parents(database: Database) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.fail(database, registry.claimed(database))
    with pytest.raises(errors.Conflict, match="retry it first"), database.write() as session:
        jobs.retry(session, child.id)
    with database.write() as session:
        parent_again = jobs.retry(session, parent.id)
        child_again = jobs.retry(session, child.id)
    assert (child_again.state, child_again.depends_on) == (JobState.WAITING, (parent_again.id,))


@pytest.mark.slow
def test_retry_finds_the_newest_of_many_retries_of_a_parent_in_few_statements(database: Database) -> None:
    """A walk from each retry to the next one took a statement for each."""
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    registry.fail(database, registry.claimed(database))
    with database.write() as session:
        row = session.execute(sa.select(tables.jobs).where(tables.jobs.c.id == parent.id)).one()._asdict()
        del row["number"]
        retries = [f"retry-{position}" for position in range(10_000)]
        earlier = [parent.id, *retries]
        copies = [{**row, "id": retry, "retry_of": of} for retry, of in zip(retries, earlier, strict=False)]
        session.execute(sa.insert(tables.jobs), copies)
        last = {"state": JobState.QUEUED, "finished_at": None, "reason": None}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == retries[-1]).values(last))
    statements: list[str] = []
    with database.write() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *event: statements.append(event[2]))
        again = jobs.retry(session, child.id)
    assert again.depends_on == (retries[-1],)
    assert len(statements) < 20


def test_prune_deletes_old_jobs_and_keeps_their_versions(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    version = registry.add_version(database, job_id=job.id, spec=job.spec)
    registry.succeed(database, job)
    with database.write() as session:
        assert jobs.prune(session, older_than=3600) == []
        assert jobs.prune(session, older_than=-1) == [job.id]
        assert jobs.list_events(session, job.id) == []
        assert jobs.list_attempts(session, job.id) == []
        kept = adapter_versions.resolve(session, version.reference)
    assert (kept.job_id, kept.spec, kept.lineage) == (None, version.spec, version.lineage)


def test_prune_keeps_unfinished_jobs_and_their_parents(database: Database) -> None:
    parent, other, queued = (registry.submit(database) for _ in range(3))
    child = registry.submit(database, depends_on=[parent.id, queued.id])
    registry.succeed(database, registry.claimed(database, job_id=parent.id))
    registry.cancel(database, other)
    with database.write() as session:
        assert jobs.prune(session, older_than=-1) == [other.id]
        assert jobs.get(session, child.id).depends_on == (parent.id, queued.id)


def test_prune_by_number_keeps_the_jobs_that_ended_last(database: Database) -> None:
    made = [registry.submit(database) for _ in range(4)]
    for number, job in enumerate(made[:3]):
        registry.succeed(database, registry.claimed(database, job_id=job.id))
        with database.write() as session:
            ended = sa.update(tables.jobs).where(tables.jobs.c.id == job.id)
            session.execute(ended.values(finished_at=types.later(number - 100)))
    with database.write() as session:
        assert jobs.prune(session) == []
        assert jobs.prune(session, beyond=3) == []
        assert jobs.prune(session, beyond=2) == [made[0].id]
        assert jobs.prune(session, older_than=99.5, beyond=1) == [made[1].id]
        assert jobs.prune(session, beyond=0) == [made[2].id]
        assert jobs.get(session, made[3].id).state is JobState.QUEUED


def test_prune_of_jobs_that_ended_at_once_keeps_the_last_submitted(database: Database) -> None:
    made = [registry.submit(database) for _ in range(4)]
    for job in made:
        registry.cancel(database, job)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(finished_at=types.once(types.later(-1))))
    with database.write() as session:
        assert set(jobs.prune(session, beyond=3)) == {made[0].id}
        assert set(jobs.prune(session, beyond=1)) == {made[1].id, made[2].id}


def test_stored_specification_with_unusual_values_does_not_warn_again(database: Database) -> None:
    spec = registry.train_spec()
    with pytest.warns(UserWarning, match="rank=128 is outside"):
        spec = spec.evolve(lora={"rank": 128})
    job = registry.submit(database, spec=spec)
    stored = registry.get(database, job).spec
    assert train.KIND.spec_of(stored) == spec  # warnings are errors here


def test_unfinished_jobs_are_found_among_any_number_of_names(database: Database) -> None:
    """PostgreSQL refuses a statement with so many parameters."""
    ended, unfinished = registry.submit(database), registry.submit(database)
    registry.cancel(database, ended)
    names = [ended.id, *map(str, range(70_000)), unfinished.id]
    with database.read() as session:
        assert jobs.select_unfinished(session, names) == {unfinished.id}
        assert jobs.select_unfinished(session, names, ended_within=60.0) == {ended.id, unfinished.id}


@pytest.mark.parametrize("column", ["created_at", "not_before", "ring_at", "started_at", "finished_at"])
def test_damaged_time_hides_no_job(database: Database, column: str) -> None:
    damaged, sound = registry.submit(database), registry.submit(database)
    is_damaged = {"id": damaged.id, "time": "garbage" if database.is_sqlite else "infinity"}
    with database.write() as session:
        session.execute(sa.text(f"UPDATE jobs SET {column} = :time WHERE id = :id"), is_damaged)
    with database.write() as session:
        assert [job.id for job in jobs.find(session)] == [sound.id, damaged.id]
        queue_status.read(session)
        jobs.prune(session, older_than=0.0, beyond=0)
    assert registry.get(database, sound) == sound


def test_damaged_time_of_an_attempt_hides_none(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    time = "garbage" if database.is_sqlite else "-infinity"
    with database.write() as session:
        session.execute(
            sa.text(f"UPDATE attempts SET started_at = '{time}', ended_at = '{time}', not_before = '{time}'")
        )
    with database.read() as session:
        (found,) = jobs.list_attempts(session, job.id)
    assert (found.started_at, found.ended_at, found.not_before) == (types.UNKNOWN_TIME, None, None)


@pytest.mark.parametrize("prefix", ["a", "ab", "7", "z", "zz", "a7", "2z"])
def test_ids_that_begin_so_are_found_whatever_follows(
    database: Database, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    ids = sorted((prefix + end).ljust(16, "2") for end in ("2", "b", "zzz"))
    begins = ("2", "3", "6", "7", "a", "a6", "aa", "ab", "ac", "b", "y", "z6", "zy", "zz")
    others = [begin.ljust(16, "4") for begin in begins if not begin.startswith(prefix)]
    for job_id in (*ids, *others):
        monkeypatch.setattr(secrets, "token_bytes", lambda _, text=job_id: base64.b32decode(text.upper()))
        assert registry.submit(database).id == job_id
    with database.read() as session:
        with pytest.raises(errors.InvalidReference, match=f"begins the ids of {', '.join(ids)} "):
            jobs.find_id(session, prefix, owner="")
        for job_id in ids:
            assert jobs.find_id(session, job_id[:15], owner="") == job_id


def test_only_trainings_have_an_estimate_of_their_memory(database: Database) -> None:
    """Rows of earlier versions have the default of the column, whatever their kind."""
    training, merge = registry.submit(database), registry.submit(database, spec=registry.merge_spec())
    registry.change_rows(database, "UPDATE jobs SET is_memory_estimated = true")
    found = [registry.get(database, job).requirements.is_memory_estimated for job in (training, merge)]
    assert found == [True, False]


def test_key_of_a_pruned_job_goes_to_its_newest_retry(database: Database) -> None:
    first = registry.submit(database, idempotency_key="monday")
    ids = [first.id]
    for _ in range(2):
        with database.write() as session:
            jobs.request_cancel(session, ids[-1])
            ids.append(jobs.retry(session, ids[-1]).id)
    with database.write() as session:
        assert jobs.count_expired(session, beyond=0) == 2
        assert sorted(jobs.prune(session, beyond=0)) == sorted(ids[:2])
    assert registry.submit(database, idempotency_key="monday").id == ids[-1]
