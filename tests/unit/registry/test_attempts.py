from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import registry

from finch_hub import errors
from finch_hub.registry import attempts, claims, jobs, placement, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState, Requirements

NEWS = [NewEvent(type="progress", data={"step": step, "loss": 1 / step}) for step in (1, 2, 3)]


def append(database: Database, job: Job, *new: NewEvent) -> int:
    with database.write() as session:
        return attempts.append_events(session, job.id, job.fence, new)


def outcomes(database: Database, job: Job) -> list[tuple[int, str | None]]:
    with database.read() as session:
        return [(attempt.fence, attempt.outcome) for attempt in jobs.list_attempts(session, job.id)]


def test_a_claim_owns_the_job_for_its_lease(database: Database) -> None:
    submitted = registry.submit(database)
    job = registry.claimed(database, worker="gpu-1", lease=60)
    assert (job.id, job.state, job.fence, job.attempts, job.worker) == (submitted.id, JobState.RUNNING, 1, 1, "gpu-1")
    assert job.lease_until is not None
    assert job.started_at is not None
    assert abs(job.lease_until - job.started_at - timedelta(seconds=60)) < timedelta(seconds=1)
    assert registry.claim(database) is None
    assert registry.get(database, job) == job


def test_priority_goes_first_then_age(database: Database) -> None:
    low, old, new, high = (registry.submit(database, priority=priority) for priority in (-1, 0, 0, 5))
    assert [registry.claimed(database).id for _ in range(4)] == [high.id, old.id, new.id, low.id]


def test_a_named_job_is_claimed_or_none(database: Database) -> None:
    first, second = registry.submit(database), registry.submit(database)
    assert registry.claimed(database, job_id=second.id).id == second.id
    assert registry.claim(database, job_id=second.id) is None
    assert registry.claimed(database).id == first.id


def test_a_warm_base_goes_before_age_but_not_before_priority(database: Database) -> None:
    cold, warm, urgent = (
        registry.submit(database, spec=registry.train_spec(base=base), priority=priority)
        for base, priority in (("cold", 0), ("warm", 0), ("cold", 1))
    )
    order = [registry.claimed(database, warm_base="warm@").id for _ in range(3)]
    assert order == [urgent.id, warm.id, cold.id]


def test_nobody_is_overtaken_by_warm_bases_for_long(database: Database) -> None:
    cold = registry.submit(database, spec=registry.train_spec(base="cold"))
    registry.submit(database, spec=registry.train_spec(base="warm"))
    with database.write() as session:
        waited = types.later(-claims.WARM_PATIENCE_SECONDS - 1)
        session.execute(sa.update(jobs.jobs).where(jobs.jobs.c.id == cold.id).values(created_at=waited))
    assert registry.claimed(database, warm_base="warm@").id == cold.id


def test_a_warm_base_far_down_the_queue_does_not_jump(database: Database) -> None:
    with database.write() as session:
        cold = values.NewJob.of_spec(registry.train_spec(base="cold"))
        first, *_ = jobs.submit_many(session, [cold] * claims.WARM_WINDOW)
    registry.submit(database, spec=registry.train_spec(base="warm"))
    assert registry.claimed(database, warm_base="warm@").id == first.id


names = st.sampled_from(["a", "b", "c"])
requirements = st.builds(
    Requirements,
    queue=names,
    device=st.sampled_from(["any", "cpu", "cuda"]),
    memory_bytes=st.sampled_from([0, 1, 2**33, 2**40]),
    labels=st.lists(names, max_size=3).map(tuple),
)
capabilities = st.builds(
    values.Capabilities,
    device=st.sampled_from(["cpu", "cuda"]),
    memory_bytes=st.sampled_from([0, 1, 2**33 - 1, 2**33, 2**50]),
    queues=st.sets(names, min_size=1).map(tuple),
    labels=st.sets(names).map(tuple),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=st.lists(requirements, min_size=1, max_size=4), slot=capabilities)
def test_a_job_is_claimed_exactly_where_nothing_speaks_against_it(
    database: Database, asked: list[Requirements], slot: values.Capabilities
) -> None:
    with database.write() as session:
        session.execute(sa.delete(jobs.jobs))
        new = [values.NewJob.of_spec(registry.train_spec(), requirements=item) for item in asked]
        submitted = {job.id: job.requirements for job in jobs.submit_many(session, new)}
    got = {job.id for _ in asked if (job := registry.claim(database, capabilities=slot)) is not None}
    assert got == {job_id for job_id, item in submitted.items() if not placement.list_misfits(item, slot)}


def test_misfits_say_what_is_missing() -> None:
    slot = values.Capabilities(device="cpu", memory_bytes=2**30, queues=("default",), labels=("ada",))
    asked = Requirements(queue="night", device="cuda", memory_bytes=3 * 2**30, labels=("ada", "big", "eu"))
    assert placement.list_misfits(asked, slot) == [
        "does not serve queue 'night'",
        "has no cuda device",
        "has 1.0 GiB of memory, but the job needs 3.0 GiB",
        "lacks the labels big, eu",
    ]


def test_renewing_extends_the_lease_and_tells_of_a_cancellation(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=5)
    with database.write() as session:
        renewed = attempts.renew(session, job.id, job.fence, 500)
    assert job.lease_until is not None
    assert renewed.lease_until > job.lease_until
    assert not renewed.cancel_requested
    registry.cancel(database, job)
    with database.write() as session:
        assert attempts.renew(session, job.id, job.fence, 500).cancel_requested


def test_events_are_numbered_without_gaps_and_read_from_any_of_them(database: Database) -> None:
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


def test_success_keeps_the_result(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    done = registry.succeed(database, job, adapter="medical/1", loss=float("inf"))
    assert (done.state, done.result, done.reason) == (JobState.SUCCEEDED, {"adapter": "medical/1", "loss": None}, None)
    assert (done.lease_until, done.worker, done.finished_at is not None) == (None, "w", True)
    assert outcomes(database, job) == [(1, "succeeded")]


def test_success_after_a_request_to_cancel_undoes_all_of_its_transaction(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    with pytest.raises(errors.CancelRequested):
        succeed_with_a_version(database, job)
    with database.read() as session, pytest.raises(errors.NotFound):
        registry.adapter_versions.resolve(session, "medical")
    with database.write() as session:
        assert attempts.cancel(session, job.id, job.fence).state is JobState.CANCELLED
    assert outcomes(database, job) == [(1, "cancelled")]


def succeed_with_a_version(database: Database, job: Job) -> None:
    base = registry.add_base(database)
    with database.write() as session:
        registry.adapter_versions.create(
            session, name="medical", digest="0" * 64, identity="0" * 64, base_id=base.id, kind="train"
        )
        attempts.succeed(session, job.id, job.fence, {})


def test_cancelling_without_a_request_is_refused(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with pytest.raises(errors.Conflict, match="no cancellation was requested"), database.write() as session:
        attempts.cancel(session, job.id, job.fence)


def test_failing_for_good_keeps_the_reason(database: Database) -> None:
    registry.submit(database)
    job = registry.fail(database, registry.claimed(database), "rank 0\0 cannot work")
    assert (job.state, job.reason) == (JobState.FAILED, "rank 0\ufffd cannot work")
    with database.read() as session:
        assert jobs.list_events(session, job.id)[-1].data["reason"] == job.reason
        assert jobs.list_attempts(session, job.id)[0].reason == job.reason


def test_failing_for_now_waits_longer_each_time_and_then_fails(database: Database) -> None:
    policy = values.RetryPolicy(max_attempts=3, base_delay=100, max_delay=150)
    registry.submit(database)
    for delay in (100, 150):
        job = registry.fail(database, registry.claimed(database), "the disk is full", policy)
        assert (job.state, job.reason) == (JobState.QUEUED, "the disk is full")
        with database.read() as session:
            left = job.not_before - session.scalar(sa.select(types.now()))
        assert timedelta(seconds=delay - 10) < left <= timedelta(seconds=delay)
        assert registry.claim(database) is None
        with database.write() as session:
            session.execute(sa.update(jobs.jobs).values(not_before=types.later(-1)))
    job = registry.fail(database, registry.claimed(database), "the disk is full", policy)
    assert (job.state, job.attempts, job.fence) == (JobState.FAILED, 3, 3)
    assert outcomes(database, job) == [(1, "failed"), (2, "failed"), (3, "failed")]


def test_failing_for_now_after_a_request_to_cancel_cancels(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.cancel(database, job)
    assert registry.fail(database, job, retry=registry.AT_ONCE).state is JobState.CANCELLED


@pytest.mark.parametrize(("attempts_made", "delay"), [(0, 10), (1, 10), (2, 20), (5, 160), (10, 600), (10**6, 600)])
def test_the_delay_doubles_up_to_the_most(attempts_made: int, delay: float) -> None:
    assert values.RetryPolicy(base_delay=10, max_delay=600).delay(attempts_made) == delay


def test_handing_back_uses_up_no_attempt(database: Database) -> None:
    registry.submit(database)
    for fence in (1, 2, 3, 4):
        job = registry.claimed(database)
        assert (job.fence, job.attempts) == (fence, 1)
        with database.write() as session:
            assert attempts.hand_back(session, job.id, job.fence).state is JobState.QUEUED
    assert outcomes(database, job) == [(fence, "handed_back") for fence in (1, 2, 3, 4)]
    job = registry.claimed(database)
    registry.cancel(database, job)
    with database.write() as session:
        assert attempts.hand_back(session, job.id, job.fence).state is JobState.CANCELLED


def test_a_lease_that_ran_out_queues_the_job_again(database: Database) -> None:
    registry.submit(database)
    lost = registry.claimed(database, worker="gpu-1", lease=-1)
    (job,) = registry.expire(database)
    assert (job.state, job.fence, job.attempts, job.worker) == (JobState.QUEUED, 1, 1, None)
    assert "worker gpu-1 was lost" in (job.reason or "")
    assert outcomes(database, lost) == [(1, "lost")]
    assert registry.expire(database) == []
    assert registry.claimed(database).fence == 2


def test_a_lease_that_runs_is_left_alone(database: Database) -> None:
    registry.submit(database)
    registry.claimed(database, lease=60)
    assert registry.expire(database) == []


def test_a_job_that_is_always_lost_fails(database: Database) -> None:
    registry.submit(database)
    for _ in range(3):
        registry.claimed(database, lease=-1)
        (job,) = registry.expire(database)
    assert job.state is JobState.FAILED
    assert "(attempt 3 of 3)" in (job.reason or "")


def test_a_lost_job_that_was_to_be_cancelled_is(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=-1)
    registry.cancel(database, job)
    assert [job.state for job in registry.expire(database)] == [JobState.CANCELLED]


STALE_WRITES = {
    "renew": lambda session, job: attempts.renew(session, job.id, job.fence, 60),
    "append_events": lambda session, job: attempts.append_events(session, job.id, job.fence, NEWS),
    "append_no_events": lambda session, job: attempts.append_events(session, job.id, job.fence, []),
    "succeed": lambda session, job: attempts.succeed(session, job.id, job.fence, {"stale": True}),
    "fail": lambda session, job: attempts.fail(session, job.id, job.fence, "stale"),
    "fail_for_now": lambda session, job: attempts.fail(session, job.id, job.fence, "stale", retry=registry.AT_ONCE),
    "hand_back": lambda session, job: attempts.hand_back(session, job.id, job.fence),
    "cancelled": lambda session, job: attempts.cancel(session, job.id, job.fence),
}


@pytest.mark.parametrize("since", ["requeued", "claimed again", "done", "cancel asked of the successor"])
def test_whoever_lost_the_job_writes_nothing(database: Database, since: str) -> None:
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
        return (
            jobs.get(session, job.id),
            jobs.list_events(session, job.id),
            jobs.list_attempts(session, job.id),
        )


def together(database: Database, count: int, **arguments: Any) -> list[Job]:
    return [registry.submit(database, together=True, **arguments) for _ in range(count)]


def companions(database: Database, leader: Job, limit: int = 8, memory_bytes: int = 2**40) -> list[str]:
    slot = registry.ANY_SLOT.evolve(memory_bytes=memory_bytes)
    with database.write() as session:
        taken = claims.claim_companions(session, leader, worker="w", lease_seconds=60, capabilities=slot, limit=limit)
    assert all((job.state, job.fence, job.worker) == (JobState.RUNNING, 1, "w") for job in taken)
    return [job.id for job in taken]


def test_jobs_that_asked_for_it_are_claimed_together(database: Database) -> None:
    first, second, third = together(database, 3)
    urgent = registry.submit(database, together=True, priority=1)
    registry.submit(database)  # which did not ask
    registry.submit(database, together=True, spec=registry.train_spec(base="another"))
    leader = registry.claimed(database)
    assert leader.id == urgent.id
    assert companions(database, leader, limit=2) == [first.id, second.id]
    assert companions(database, leader) == [third.id]
    assert companions(database, leader) == []


def test_who_did_not_ask_gets_no_companions(database: Database) -> None:
    leader = registry.submit(database, priority=1)
    together(database, 2)
    assert companions(database, registry.claimed(database)) == []
    assert registry.get(database, leader).state is JobState.RUNNING


def test_companions_fit_side_by_side(database: Database) -> None:
    together(database, 3, memory_bytes=2**30)
    leader = registry.claimed(database)
    assert len(companions(database, leader, memory_bytes=2 * 2**30)) == 1


def test_trainings_that_cannot_share_a_step_are_no_companions(database: Database) -> None:
    together(database, 1)
    other = registry.train_spec().evolve(training={"threads": 3})
    registry.submit(database, together=True, spec=other)
    assert companions(database, registry.claimed(database)) == []


def test_a_member_whose_gang_ended_badly_is_queued_to_run_alone(database: Database) -> None:
    together(database, 2)
    leader = registry.claimed(database)
    (other,) = companions(database, leader)
    for job_id in (leader.id, other):
        with database.write() as session:
            back = attempts.hand_back(session, job_id, 1, alone="the gang ran out of memory")
        assert (back.state, back.attempts, back.requirements.together) == (JobState.QUEUED, 0, False)
    again = registry.claimed(database)
    assert companions(database, again) == []
    with database.read() as session:
        (first, _) = jobs.list_attempts(session, again.id)
    assert (first.outcome, first.reason) == ("handed_back", "the gang ran out of memory")


def test_why_an_earlier_attempt_failed_is_not_said_of_what_came_after(database: Database) -> None:
    registry.submit(database)
    first = registry.claimed(database)
    with database.write() as session:
        queued = attempts.fail(
            session, first.id, first.fence, "the disk was full", retry=values.RetryPolicy(base_delay=0)
        )
    assert queued.reason == "the disk was full"
    second = registry.claimed(database)
    assert second.reason is None
    with database.write() as session:
        jobs.request_cancel(session, second.id)
        assert attempts.cancel(session, second.id, second.fence).reason is None
