from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_versions, attempts, jobs, tables, types, values, workers
from finch_hub.registry.database import Database, Session
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState

NEWS = [NewEvent(type="progress", data={"step": step, "loss": 1 / step}) for step in (1, 2, 3)]


def append(database: Database, job: Job, *new: NewEvent) -> int:
    with database.write() as session:
        return attempts.append_events(session, job, new)


def outcomes(database: Database, job: Job) -> list[tuple[int, str | None]]:
    with database.read() as session:
        return [(attempt.fence, attempt.outcome) for attempt in jobs.list_attempts(session, job.id)]


def test_renew_extends_the_lease_and_returns_a_cancellation(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=5)
    with database.write() as session:
        renewed = attempts.renew(session, job, 500)
    assert job.lease_until is not None
    assert renewed.lease_until > job.lease_until
    assert not renewed.cancel_requested
    registry.cancel(database, job)
    with database.write() as session:
        assert attempts.renew(session, job, 500).cancel_requested


def test_events_are_numbered_without_gaps(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    assert append(database, job, *NEWS) == 5
    assert append(database, job) == 5
    assert append(database, job, NewEvent(type="message", level="warn", message="slow\0")) == 6
    with database.read() as session:
        everything = jobs.list_events(session, job.id)
        assert [event.seq for event in everything] == [1, 2, 3, 4, 5, 6]
        assert [event.type for event in everything] == ["state", "state", "progress", "progress", "progress", "message"]
        assert everything[2].data == {"step": 1, "loss": 1.0}
        assert everything[-1].message == "slow\ufffd"
        assert jobs.list_events(session, job.id, after=2, limit=2) == everything[2:4]
        assert jobs.list_events(session, job.id, after=6) == []


def test_events_of_an_attempt_are_counted_without_those_of_other_jobs(database: Database) -> None:
    first, second = (registry.submit(database), registry.submit(database))
    for _ in range(3):
        registry.fail(
            database, registry.claimed(database, job_id=second.id), retry=registry.AT_ONCE.evolve(max_attempts=9)
        )
    job = registry.claimed(database, job_id=first.id)
    with database.write() as session:
        assert attempts.count_events(session, job) == 0
    append(database, job, *NEWS)
    with database.write() as session:
        assert attempts.count_events(session, job) == 3


def test_succeed_stores_the_result(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    done = registry.succeed(database, job, adapter="medical/1", loss=float("inf"))
    assert (done.state, done.result, done.reason) == (JobState.SUCCEEDED, {"adapter": "medical/1", "loss": None}, None)
    assert (done.lease_until, done.worker, done.finished_at is not None) == (None, "w", True)
    assert outcomes(database, job) == [(1, "succeeded")]


def test_succeed_after_cancel_request_rolls_back(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    with pytest.raises(errors.CancelRequested):
        succeed_with_a_version(database, job)
    with database.read() as session, pytest.raises(errors.NotFound):
        adapter_versions.resolve(session, "medical")
    with database.write() as session:
        assert attempts.cancel(session, job).state is JobState.CANCELLED
    assert outcomes(database, job) == [(1, "cancelled")]


def succeed_with_a_version(database: Database, job: Job) -> None:
    base = registry.add_base(database)
    with database.write() as session:
        adapter_versions.create(session, name="medical", digest="0" * 64, identity="0" * 64, base=base, kind="train")
        attempts.succeed(session, job, {})


def test_cancel_without_request_is_refused(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with pytest.raises(errors.Conflict, match="no cancellation was requested"), database.write() as session:
        attempts.cancel(session, job)


def test_fail_without_retry_keeps_the_reason(database: Database) -> None:
    registry.submit(database)
    job = registry.fail(database, registry.claimed(database), "rank 0\0 cannot work")
    assert (job.state, job.reason) == (JobState.FAILED, "rank 0\ufffd cannot work")
    with database.read() as session:
        *earlier, last = jobs.list_events(session, job.id)
        (attempt,) = jobs.list_attempts(session, job.id)
    assert (last.level, last.data) == ("error", {"state": "failed", "attempt": 1, "reason": job.reason})
    assert {event.level for event in earlier} == {"info"}
    assert attempt.reason == job.reason
    assert attempt.ended_at is not None
    assert job.finished_at is not None


def test_failed_attempt_that_is_tried_again_is_no_error(database: Database) -> None:
    registry.submit(database)
    job = registry.fail(database, registry.claimed(database), retry=registry.AT_ONCE)
    with database.read() as session:
        last = jobs.list_events(session, job.id)[-1]
    assert (last.level, last.data) == ("info", {"state": "queued", "attempt": 1, "reason": job.reason})
    assert job.reason is not None
    assert job.finished_at is None


def test_later_attempt_keeps_the_start_of_the_first(database: Database) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    started = types.later(-100)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(started_at=types.once(started)))
    before = registry.get(database, first).started_at
    registry.fail(database, first, retry=registry.AT_ONCE)
    assert registry.claimed(database).started_at == before


def test_second_request_to_cancel_keeps_the_time_of_the_first(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(cancel_requested=types.later(-100)))
    requested = sa.select(tables.jobs.c.cancel_requested)
    with database.read() as session:
        first = session.scalar(requested)
    registry.cancel(database, job)
    with database.read() as session:
        assert session.scalar(requested) == first


def test_fail_with_retry_waits_longer_each_time_and_then_fails(database: Database) -> None:
    policy = values.RetryPolicy(max_attempts=3, base_delay=100, max_delay=150)
    registry.submit(database)
    for delay in (100, 150):
        job = registry.fail(database, registry.claimed(database), "the disk is full", policy)
        assert (job.state, job.reason) == (JobState.QUEUED, "the disk is full")
        with database.read() as session:
            now = session.scalar(sa.select(types.now()))
        assert job.not_before is not None
        assert now is not None
        left = job.not_before - now
        assert timedelta(seconds=delay - 10) < left <= timedelta(seconds=delay)
        assert registry.claim(database) is None
        with database.write() as session:
            session.execute(sa.update(tables.jobs).values(not_before=types.later(-1)))
    job = registry.fail(database, registry.claimed(database), "the disk is full", policy)
    assert (job.state, job.attempts, job.fence) == (JobState.FAILED, 3, 3)
    assert outcomes(database, job) == [(1, "failed"), (2, "failed"), (3, "failed")]


def test_fail_with_retry_after_cancel_request_cancels(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    assert registry.fail(database, job, retry=registry.AT_ONCE).state is JobState.CANCELLED


@pytest.mark.parametrize(("attempts_made", "delay"), [(0, 10), (1, 10), (2, 20), (5, 160), (10, 600), (10**6, 600)])
def test_retry_delay_doubles_up_to_the_maximum(attempts_made: int, delay: float) -> None:
    assert values.RetryPolicy(base_delay=10, max_delay=600).delay(attempts_made) == delay


def test_hand_back_counts_no_attempt(database: Database) -> None:
    registry.submit(database)
    for fence in (1, 2, 3, 4):
        job = registry.claimed(database)
        assert (job.fence, job.attempts) == (fence, 1)
        with database.write() as session:
            assert attempts.hand_back(session, job).state is JobState.QUEUED
    assert outcomes(database, job) == [(fence, "handed_back") for fence in (1, 2, 3, 4)]
    job = registry.claimed(database)
    registry.cancel(database, job)
    with database.write() as session:
        assert attempts.hand_back(session, job).state is JobState.CANCELLED


def test_expired_lease_queues_the_job_again(database: Database) -> None:
    registry.submit(database)
    lost = registry.claimed(database, worker="gpu-1", lease=-1)
    (job,) = registry.expire(database)
    assert (job.state, job.fence, job.attempts, job.worker) == (JobState.QUEUED, 1, 1, None)
    assert "worker gpu-1 was lost" in (job.reason or "")
    assert outcomes(database, lost) == [(1, "lost")]
    assert registry.expire(database) == []
    assert registry.claimed(database).fence == 2


def test_valid_lease_does_not_expire(database: Database) -> None:
    registry.submit(database)
    registry.claimed(database, lease=60)
    assert registry.expire(database) == []


def test_expired_lease_of_the_last_attempt_fails_the_job(database: Database) -> None:
    registry.submit(database)
    for _ in range(3):
        registry.claimed(database, lease=-1)
        (job,) = registry.expire(database)
    assert job.state is JobState.FAILED
    assert "(attempt 3 of 3)" in (job.reason or "")


def test_expired_lease_after_cancel_request_cancels(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=-1)
    registry.cancel(database, job)
    assert [job.state for job in registry.expire(database)] == [JobState.CANCELLED]


STALE_WRITES = {
    "renew": lambda session, job: attempts.renew(session, job, 60),
    "append_events": lambda session, job: attempts.append_events(session, job, NEWS),
    "append_no_events": lambda session, job: attempts.append_events(session, job, []),
    "succeed": lambda session, job: attempts.succeed(session, job, {"stale": True}),
    "fail": lambda session, job: attempts.fail(session, job, "stale"),
    "fail_for_now": lambda session, job: attempts.fail(session, job, "stale", retry=registry.AT_ONCE),
    "hand_back": lambda session, job: attempts.hand_back(session, job),
    "cancelled": lambda session, job: attempts.cancel(session, job),
}


@pytest.mark.parametrize("since", ["requeued", "claimed again", "done", "cancel asked of the successor"])
def test_write_of_a_stale_attempt_is_refused(database: Database, since: str) -> None:
    registry.submit(database)
    stale = registry.claimed(database, lease=-1)
    registry.expire(database)
    if since != "requeued":
        owner = registry.claimed(database)
        if since == "done":
            registry.succeed(database, owner, fresh=True)
        elif since == "cancel asked of the successor":
            registry.cancel(database, owner)
    before = snapshot(database, stale)
    for name, write in STALE_WRITES.items():
        with pytest.raises(errors.StaleFence), database.write() as session:
            write(session, stale)
        assert snapshot(database, stale) == before, name


def snapshot(database: Database, job: Job) -> tuple[object, ...]:
    with database.read() as session:
        return (jobs.get(session, job.id), jobs.list_events(session, job.id), jobs.list_attempts(session, job.id))


def test_reason_of_an_earlier_attempt_is_cleared(database: Database) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    with database.write() as session:
        queued = attempts.fail(session, first, "the disk was full", retry=values.RetryPolicy(base_delay=0))
    assert queued.reason == "the disk was full"
    second = registry.claimed(database)
    assert second.reason is None
    with database.write() as session:
        jobs.request_cancel(session, second.id)
        assert attempts.cancel(session, second).reason is None


WRITES: dict[str, Callable[[Session, Job], object]] = {
    "renew": lambda session, job: attempts.renew(session, job, 60),
    "append events": lambda session, job: attempts.append_events(session, job, NEWS),
    "count events": attempts.count_events,
    "succeed": lambda session, job: attempts.succeed(session, job, {}),
    "fail": lambda session, job: attempts.fail(session, job, "it broke"),
    "fail and retry": lambda session, job: attempts.fail(session, job, "it broke", retry=registry.AT_ONCE),
    "hand back": attempts.hand_back,
    "set aside": lambda session, job: attempts.set_aside(session, job, "it is new", version="1"),
    "cancel": attempts.cancel,
}


@pytest.mark.parametrize("next_worker", ["another", "w"])
@pytest.mark.parametrize("write", WRITES)
def test_claim_that_a_failover_lost_owns_nothing(database: Database, write: str, next_worker: str) -> None:
    """The standby has no trace of the first claim, so that the next one has the same fence."""
    submitted = registry.submit(database)
    before = row_of(database, submitted)
    lost = registry.claimed(database)
    with database.write() as session:
        session.execute(sa.delete(tables.attempts))
        session.execute(sa.delete(tables.job_events).where(tables.job_events.c.seq > 1))
        session.execute(sa.update(tables.jobs).values(before))
    owner = registry.claimed(database, worker=next_worker)
    assert owner.fence == lost.fence
    registry.cancel(database, owner)
    known = snapshot(database, owner)
    with pytest.raises(errors.StaleFence), database.write() as session:
        WRITES[write](session, lost)
    assert snapshot(database, owner) == known
    with database.write() as session:
        WRITES["cancel"](session, owner)


def row_of(database: Database, job: Job) -> dict[str, object]:
    with database.read() as session:
        return dict(session.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job.id)).one()._mapping)


def test_token_of_a_claim_is_not_shown(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    assert job.claim_token
    assert job.claim_token not in job.model_dump_json() + repr(job)
    assert registry.succeed(database, job).claim_token is None


@pytest.mark.parametrize(("ending", "is_ended"), [("succeed", True), ("hand back", True), ("", False), ("lost", False)])
def test_end_of_an_attempt_is_found(database: Database, ending: str, is_ended: bool) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=-1 if ending == "lost" else 60)
    with database.write() as session:
        if ending in WRITES:
            WRITES[ending](session, job)
    if ending == "lost":
        registry.expire(database)
    with database.read() as session:
        assert attempts.find_ended(session, job) == (registry.get(database, job) if is_ended else None)


def start_worker(database: Database, name: str, *, remark: str | None = None, queue: str = "default") -> None:
    device = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)
    description = values.WorkerDescription(
        id=name, hostname="box", pid=7, version="1", schema_revision="1", devices=(device,), queues=(queue,)
    )
    with database.write() as session:
        worker = workers.register(session, description)
        workers.heartbeat(session, worker, remark=remark)


def slot_of(worker: str) -> values.Capabilities:
    return registry.ANY_SLOT.evolve(worker=worker)


def claim_by(database: Database, worker: str) -> Job | None:
    return registry.claim(database, worker=worker, capabilities=slot_of(worker))


def pass_on(database: Database, job: Job, alone: Literal["wait", "retry", "fail"], reason: str = "no disk") -> Job:
    policy = values.RetryPolicy(max_attempts=2, base_delay=100)
    with database.write() as session:
        return attempts.pass_on(session, job, reason, policy=policy, alone=alone)


def test_job_that_is_passed_on_is_left_to_other_workers_for_a_while(database: Database) -> None:
    for name in ("bad", "good"):
        start_worker(database, name)
    registry.submit(database)
    job = claim_by(database, "bad")
    assert job is not None
    job = pass_on(database, job, "retry")
    assert (job.state, job.attempts, job.not_before) == (JobState.QUEUED, 0, None)
    assert job.reason == "worker bad: no disk"
    assert outcomes(database, job) == [(1, "handed_back")]
    with database.read() as session:
        *_, told, state = jobs.list_events(session, job.id)
        assert attempts.is_passed_on(session, job.id, "bad")
        assert not attempts.is_passed_on(session, job.id, "good")
    assert told.message.startswith("worker bad cannot run this job now")
    assert told.level == "warn"
    assert state.data == {"state": "queued", "attempt": 0, "reason": "worker bad: no disk"}
    assert claim_by(database, "bad") is None
    again = claim_by(database, "good")
    assert again is not None
    assert again.id == job.id
    with database.write() as session:
        attempts.hand_back(session, again)
        session.execute(sa.update(tables.attempts).values(not_before=types.later(-1)))
    assert claim_by(database, "bad") is not None, "the wait is over"


@pytest.mark.parametrize("other", ["none", "paused", "unfit", "tried", "stopped"])
@pytest.mark.parametrize("alone", ["wait", "retry"])
def test_job_that_no_other_worker_can_take_waits_or_uses_up_an_attempt(
    database: Database, alone: Literal["wait", "retry"], other: str
) -> None:
    start_worker(database, "bad")
    if other != "none":
        remark = "its store is away" if other == "paused" else None
        start_worker(database, "other", remark=remark, queue="night" if other == "unfit" else "default")
    registry.submit(database)
    if other == "tried":
        first = claim_by(database, "other")
        assert first is not None
        pass_on(database, first, "wait")
    elif other == "stopped":
        with database.write() as session:
            workers.mark_stopped(session, "other", workers.get(session, "other").instance)
    job = claim_by(database, "bad")
    assert job is not None
    ended = pass_on(database, job, alone)
    assert (ended.state, ended.attempts) == (JobState.QUEUED, 0 if alone == "wait" else 1)
    assert claim_by(database, "bad") is None, "it is not tried at once"


def test_wait_after_a_job_was_passed_on_grows(database: Database) -> None:
    registry.submit(database)
    for wait in (100, 200, 400):
        job = claim_by(database, "bad")
        assert job is not None
        pass_on(database, job, "wait")
        with database.read() as session:
            left = jobs.list_attempts(session, job.id)[-1].not_before
            now = session.scalar(sa.select(types.now()))
        assert left is not None
        assert now is not None
        assert timedelta(seconds=wait - 10) < left - now <= timedelta(seconds=wait)
        with database.write() as session:
            session.execute(sa.update(tables.attempts).values(not_before=types.later(-1)))


def test_artifact_that_all_workers_lack_fails_the_job(database: Database) -> None:
    for name in ("one", "two"):
        start_worker(database, name)
    start_worker(database, "paused", remark="its store is away")
    submitted = registry.submit(database)
    for name, state in (("one", JobState.QUEUED), ("two", JobState.QUEUED), ("paused", JobState.FAILED)):
        job = claim_by(database, name)
        assert job is not None
        assert pass_on(database, job, "fail", "there is no artifact 'a'").state is state, name
    assert registry.get(database, submitted).reason == (
        "there is no artifact 'a': no worker that can run this job finds it in the store"
        " (restore the artifact store from a backup, or submit the job again with its data)"
    )


def test_worker_that_passed_a_job_on_for_another_reason_looks_for_the_artifact_too(database: Database) -> None:
    for name in ("one", "two"):
        start_worker(database, name)
    registry.submit(database)
    first = claim_by(database, "two")
    assert first is not None
    pass_on(database, first, "wait", "artifact store: gone")
    job = claim_by(database, "one")
    assert job is not None
    assert pass_on(database, job, "fail", "there is no artifact 'a'").state is JobState.QUEUED


def test_job_to_cancel_is_cancelled_instead_of_passed_on(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    assert pass_on(database, job, "wait").state is JobState.CANCELLED


@pytest.mark.parametrize("lease", ["none", "in years", "infinite or damaged"])
def test_lease_that_no_worker_can_have_ends(database: Database, lease: str) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=60)
    with database.write() as session:
        if lease == "infinite or damaged":
            time = "garbage" if database.is_sqlite else "infinity"
            session.execute(sa.text(f"UPDATE jobs SET lease_until = '{time}'"))
        else:
            until = None if lease == "none" else types.later(1e8)
            session.execute(sa.update(tables.jobs).values(lease_until=until))
    assert [(ended.id, ended.state) for ended in registry.expire(database)] == [(job.id, JobState.QUEUED)]
