"""Rows that this version of Finch Hub cannot read: of another version, damaged, or out of today's bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import attempts, claims, evaluations, jobs, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState

HERE, NEXT = (registry.ANY_SLOT.evolve(version=version) for version in ("1.0", "2.0"))
UNREADABLE = {
    "a limit out of bounds": ("time_limit", 0),
    "negative memory": ("memory_bytes", -1),
    "a specification that is a list": ("spec", "[]"),
    "a specification that is a text": ("spec", '"train"'),
}
DAMAGED = {
    "a cut specification": ("spec", '{"kind": "tra'),
    "a specification in another encoding": ("spec", b'{"kind": "tr\xe4in"}'),
    "cut labels": ("labels", '["big'),
    "a time without meaning": ("created_at", "yesterday"),
}


def overwrite(database: Database, job: Job, column: str, value: Any, table: str = "jobs", key: str = "id") -> None:
    """Change a column as another version of the program, or a fault of the disk, would."""
    is_json = column in ("spec", "labels", "data", "metrics") and not database.is_sqlite
    with database.write() as session:
        session.execute(
            sa.text(
                f"UPDATE {table} SET {column} = {'CAST(:value AS jsonb)' if is_json else ':value'} WHERE {key} = :id"
            ),
            {"value": value, "id": job.id},
        )


def unreadable(database: Database, what: str, **arguments: Any) -> Job:
    """Submit a job and make it unreadable."""
    column, value = (UNREADABLE | DAMAGED)[what]
    if what in DAMAGED and not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    job = registry.submit(database, **arguments)
    overwrite(database, job, column, value)
    return job


@pytest.fixture(params=[*UNREADABLE, *DAMAGED])
def what(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def test_unreadable_job_is_set_aside_and_those_behind_it_run(database: Database, what: str) -> None:
    bad = unreadable(database, what)
    good = registry.submit(database)
    assert registry.claimed(database, capabilities=HERE).id == good.id
    kept = registry.get(database, bad)
    assert (kept.state, kept.attempts, kept.set_aside) == (JobState.QUEUED, 0, ("1.0",))
    assert kept.unreadable is not None
    assert (kept.reason or "").startswith(f"finch-hub 1.0 cannot read this job: {kept.unreadable}")
    with database.read() as session:
        (attempt,) = jobs.list_attempts(session, bad.id)
    assert (attempt.outcome, attempt.reason) == ("handed_back", kept.reason)
    assert registry.claim(database, capabilities=HERE) is None, "this version tries it once"
    assert registry.claim(database, capabilities=NEXT) is None
    assert registry.get(database, bad).set_aside == ("1.0", "2.0"), "another version tries it too"
    with database.read() as session:
        assert not claims.has_fitting(session, HERE)


def test_job_that_one_version_set_aside_is_run_by_another(database: Database) -> None:
    job = registry.submit(database)
    overwrite(database, job, "time_limit", 0)
    assert registry.claim(database, capabilities=HERE) is None
    overwrite(database, job, "time_limit", 60)  # as if the other version allowed it
    assert registry.claim(database, capabilities=HERE) is None
    claimed = registry.claimed(database, capabilities=NEXT)
    assert (claimed.id, claimed.reason) == (job.id, None)
    assert registry.succeed(database, claimed).state is JobState.SUCCEEDED


def test_claim_passes_over_more_unreadable_jobs_than_one_transaction_sets_aside(database: Database) -> None:
    with database.write() as session:
        made = jobs.submit_many(session, [values.NewJob.of_spec(registry.train_spec())] * (claims._MAX_SET_ASIDE + 5))
        session.execute(sa.text("UPDATE jobs SET time_limit = 0"))
    good = registry.submit(database)
    assert registry.claim(database, capabilities=HERE) is None
    assert registry.claimed(database, capabilities=HERE).id == good.id
    with database.read() as session:
        assert len(jobs.find_set_aside(session, limit=1000)) == len(made)


def test_unreadable_job_is_listed_and_cancelled(database: Database, what: str) -> None:
    good, bad = registry.submit(database), unreadable(database, what)
    with database.read() as session:
        assert {job.id for job in jobs.find(session)} == {good.id, bad.id}
        assert [job.id for job in jobs.find_set_aside(session)] == [bad.id], "before any worker has tried it"
    assert registry.cancel(database, bad).state is JobState.CANCELLED
    with database.read() as session:
        assert jobs.find_set_aside(session) == []
    with database.write() as session, pytest.raises(errors.Conflict, match=r"cannot retry .*submit the job anew"):
        jobs.retry(session, bad.id)


def test_sweep_ends_lost_attempts_at_unreadable_jobs(database: Database, what: str) -> None:
    lost = registry.submit(database), registry.submit(database)
    for _ in lost:
        registry.claimed(database, lease=-1)
    column, value = (UNREADABLE | DAMAGED)[what]
    if what in DAMAGED and not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    overwrite(database, lost[0], column, value)
    assert {job.id for job in registry.expire(database)} == {job.id for job in lost}


def test_end_of_an_unreadable_job_settles_the_jobs_that_depend_on_it(database: Database, what: str) -> None:
    parent = registry.submit(database)
    child = registry.submit(database, depends_on=[parent.id])
    running = registry.claimed(database)
    column, value = (UNREADABLE | DAMAGED)[what]
    if what in DAMAGED and not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    overwrite(database, parent, column, value)
    overwrite(database, child, column, value)
    assert registry.succeed(database, running).state is JobState.SUCCEEDED
    assert registry.get(database, child).state is JobState.QUEUED


def test_job_of_an_unknown_kind_is_left_for_workers_that_know_it(database: Database) -> None:
    job, good = registry.submit(database), registry.submit(database)
    overwrite(database, job, "kind", "distill")
    old, new = HERE.evolve(kinds=("train",)), HERE.evolve(kinds=("train", "distill"))
    assert registry.claimed(database, capabilities=old).id == good.id
    assert registry.claim(database, capabilities=old) is None
    assert registry.get(database, job).reason is None
    assert registry.claimed(database, capabilities=new).kind == "distill"


@pytest.mark.parametrize(
    ("column", "value"), [("type", "heartbeat"), ("level", "trace"), ("data", "[]"), ("data", '{"step": ')]
)
def test_event_of_another_version_is_read_as_a_message(database: Database, column: str, value: str) -> None:
    if value.endswith(" ") and not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        attempts.append_events(session, job, [NewEvent(type="metrics", message="news", data={"loss": 1})])
    overwrite(database, job, column, value, table="events", key="type = 'metrics' AND job_id")
    with database.read() as session:
        *earlier, last = jobs.list_events(session, job.id)
    assert [event.type for event in earlier] == ["state", "state"]
    assert (last.seq, last.type, last.level) == (3, "message", "warn")
    assert "of another version of Finch Hub: news" in last.message


def test_damaged_times_and_metrics_hide_no_other_rows(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    registry.submit(database)
    job = registry.claimed(database)
    version = registry.add_version(database)
    with database.write() as session:
        for loss in (1.0, 2.0):
            measured: dict[str, Any] = {"dataset": registry.digest("x"), "evaluator": "loss", "metrics": {"loss": loss}}
            evaluations.add(session, base_id=version.base.id, adapter=version.reference, **measured)
        session.execute(sa.text("UPDATE attempts SET started_at = 'yesterday', outcome = 'preempted'"))
        session.execute(sa.text("UPDATE evaluations SET metrics = '{' WHERE id = 1"))
    with database.read() as session:
        (attempt,) = jobs.list_attempts(session, job.id)
        second, first = evaluations.find(session)
    assert (attempt.started_at.year, attempt.outcome) == (1970, "preempted")
    assert (second.metrics, first.metrics) == ({"loss": 2.0}, {"unreadable": "{"})


def test_worker_of_another_version_is_listed_with_the_devices_that_this_one_knows(database: Database) -> None:
    device = {"kind": "cpu", "name": "2 cores", "memory_bytes": 8, "free_bytes": 8}
    with database.write() as session:
        workers.register(
            session,
            values.WorkerDescription(id="new", hostname="box", pid=1, version="2.0", schema_revision="5", devices=()),
        )
        devices = [device | {"cores": 2}, device | {"kind": "npu"}, "a device"]
        session.execute(sa.update(workers.workers).values(devices=devices))
    with database.read() as session:
        (found,) = workers.find(session)
    assert [dict(entry) for entry in found.devices] == [device]


@pytest.mark.parametrize("value", ["[]", '{"rank": '])
def test_version_with_damaged_metrics_hides_no_other_versions(database: Database, value: str) -> None:
    if value != "[]" and not database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    bad, _ = registry.add_version(database), registry.add_version(database)
    with database.write() as session:
        raw = "CAST(:value AS jsonb)" if not database.is_sqlite else ":value"
        session.execute(
            sa.text(f"UPDATE adapter_versions SET metrics = {raw}, kind = 'distill' WHERE number = 1"), {"value": value}
        )
    second, first = registry.list_versions(database)
    assert (second.metrics, first.kind, first.number) == ({}, "distill", bad.number)
    assert first.metrics == {"unreadable": value}
    assert json.loads(first.model_dump_json())["kind"] == "distill"
