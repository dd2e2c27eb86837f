from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing, registry

from finch_hub.registry import attempts, claims, jobs, placement, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState, Requirements


def test_claimed_job_has_owner_and_lease(database: Database) -> None:
    submitted = registry.submit(database)
    job = registry.claimed(database, worker="gpu-1", lease=60)
    assert (job.id, job.state, job.fence, job.attempts, job.worker) == (submitted.id, JobState.RUNNING, 1, 1, "gpu-1")
    assert job.lease_until is not None
    assert job.started_at is not None
    assert abs(job.lease_until - job.started_at - timedelta(seconds=60)) < timedelta(seconds=1)
    with database.read() as session:
        assert jobs.list_events(session, job.id)[-1].data == {"state": "running", "attempt": 1, "worker": "gpu-1"}
    assert registry.claim(database) is None
    assert registry.get(database, job) == job


def test_claim_takes_jobs_by_priority_then_age(database: Database) -> None:
    low, old, new, high = (registry.submit(database, priority=priority) for priority in (-1, 0, 0, 5))
    assert [registry.claimed(database).id for _ in range(4)] == [high.id, old.id, new.id, low.id]


def test_claim_prefers_loaded_base_to_age_but_not_to_priority(database: Database) -> None:
    cold, warm, urgent = (
        registry.submit(database, spec=registry.train_spec(base=base), priority=priority)
        for base, priority in (("cold", 0), ("warm", 0), ("cold", 1))
    )
    order = [registry.claimed(database, warm_base="warm@").id for _ in range(3)]
    assert order == [urgent.id, warm.id, cold.id]


@pytest.mark.parametrize(("seconds", "first"), [(5, "warm"), (61, "cold")])
def test_claim_takes_a_job_that_has_waited_a_minute_before_loaded_bases(
    database: Database, seconds: float, first: str
) -> None:
    made = {base: registry.submit(database, spec=registry.train_spec(base=base)) for base in ("cold", "warm")}
    with database.write() as session:
        cold = sa.update(tables.jobs).where(tables.jobs.c.id == made["cold"].id)
        session.execute(cold.values(created_at=types.later(-seconds)))
    assert registry.claimed(database, warm_base="warm@").id == made[first].id


def test_claim_ignores_loaded_base_outside_the_window(database: Database) -> None:
    with database.write() as session:
        cold = values.NewJob.of_spec(registry.train_spec(base="cold"))
        first, *_ = jobs.submit_many(session, [cold] * claims.FRONT_JOBS)
    registry.submit(database, spec=registry.train_spec(base="warm"))
    assert registry.claimed(database, warm_base="warm@").id == first.id


def test_claim_passes_over_a_front_that_fits_nobody(database: Database) -> None:
    with database.write() as session:
        spec = registry.train_spec()
        unfit = [
            values.NewJob.of_spec(spec, priority=2, requirements=Requirements(labels=("none",))),
            values.NewJob.of_spec(spec, priority=2, requirements=Requirements(device="cuda")),
            values.NewJob.of_spec(spec, priority=2, requirements=Requirements(memory_bytes=2**50)),
        ]
        jobs.submit_many(session, unfit * claims.FRONT_JOBS)
        near = values.NewJob.of_spec(spec, priority=1, requirements=Requirements(memory_bytes=2**40 + 1))
        just = values.NewJob.of_spec(spec, priority=1, requirements=Requirements(memory_bytes=2**40, labels=("ssd",)))
        _, old, first, second = jobs.submit_many(
            session, [near, values.NewJob.of_spec(spec), just, values.NewJob.of_spec(spec)]
        )
    slot = registry.ANY_SLOT.evolve(labels=("ssd",))
    order = [registry.claimed(database, capabilities=slot).id for _ in range(3)]
    assert order == [first.id, old.id, second.id]
    assert registry.claim(database, capabilities=slot) is None


@pytest.mark.parametrize("memory_bytes", [0, 1, 7, 2**30, 3 * 2**30 + 12345, 2**40 - 1, 2**40, 2**62])
def test_jobs_with_equal_needs_differ_in_memory_by_less_than_the_slack(memory_bytes: int) -> None:
    def needs(memory: int) -> str:
        return jobs.hash_needs("train", Requirements(memory_bytes=memory))

    more = int(memory_bytes * claims._MEMORY_SLACK) + 1
    assert needs(memory_bytes) != needs(more)
    assert needs(memory_bytes) == jobs.hash_needs("train", Requirements(memory_bytes=memory_bytes))
    assert needs(memory_bytes) != jobs.hash_needs("merge", Requirements(memory_bytes=memory_bytes))


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


@settings(max_examples=fuzzing.examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=st.lists(requirements, min_size=1, max_size=4), slot=capabilities, front=st.sampled_from([0, 1, 64]))
def test_claim_takes_exactly_the_jobs_without_misfits(
    database: Database, asked: list[Requirements], slot: values.Capabilities, front: int
) -> None:
    with database.write() as session:
        session.execute(sa.delete(tables.jobs))
        new = [values.NewJob.of_spec(registry.train_spec(), requirements=item) for item in asked]
        submitted = {job.id: job.requirements for job in jobs.submit_many(session, new)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "FRONT_JOBS", front)  # the others are found by their needs
        got = {job.id for _ in asked if (job := registry.claim(database, capabilities=slot)) is not None}
    assert got == {job_id for job_id, item in submitted.items() if not placement.list_misfits(item, slot)}


def together(database: Database, count: int, **arguments: Any) -> list[Job]:
    return [registry.submit(database, together=True, **arguments) for _ in range(count)]


def companions(database: Database, leader: Job, limit: int = 8, memory_bytes: int = 2**40) -> list[str]:
    slot = registry.ANY_SLOT.evolve(memory_bytes=memory_bytes)
    with database.write() as session:
        taken = claims.claim_companions(session, leader, worker="w", lease_seconds=60, capabilities=slot, limit=limit)
    assert all((job.state, job.fence, job.worker) == (JobState.RUNNING, 1, "w") for job in taken)
    return [job.id for job in taken]


def test_jobs_that_allow_it_are_claimed_together(database: Database) -> None:
    first, second, third = together(database, 3)
    urgent = registry.submit(database, together=True, priority=1)
    registry.submit(database)  # does not allow it
    registry.submit(database, together=True, spec=registry.train_spec(base="another"))
    leader = registry.claimed(database)
    assert leader.id == urgent.id
    assert companions(database, leader, limit=2) == [first.id, second.id]
    assert companions(database, leader) == [third.id]
    assert companions(database, leader) == []


def test_job_that_does_not_allow_it_gets_no_companions(database: Database) -> None:
    leader = registry.submit(database, priority=1)
    together(database, 2)
    assert companions(database, registry.claimed(database)) == []
    assert registry.get(database, leader).state is JobState.RUNNING


def test_companions_fit_into_memory_together(database: Database) -> None:
    together(database, 3, memory_bytes=2**30)
    leader = registry.claimed(database)
    assert len(companions(database, leader, memory_bytes=2 * 2**30)) == 1


def test_trainings_with_other_settings_are_not_companions(database: Database) -> None:
    together(database, 1)
    other = registry.train_spec().evolve(training={"threads": 3})
    registry.submit(database, together=True, spec=other)
    assert companions(database, registry.claimed(database)) == []


def test_hand_back_of_a_failed_group_queues_jobs_to_run_alone(database: Database) -> None:
    together(database, 2)
    leader = registry.claimed(database)
    (other,) = companions(database, leader)
    for job_id in (leader.id, other):
        with database.write() as session:
            back = attempts.hand_back(session, jobs.get(session, job_id), alone="the group ran out of memory")
        assert (back.state, back.attempts, back.requirements.together) == (JobState.QUEUED, 0, False)
    again = registry.claimed(database)
    assert companions(database, again) == []
    with database.read() as session:
        (first, _) = jobs.list_attempts(session, again.id)
    assert (first.outcome, first.reason) == ("handed_back", "the group ran out of memory")


@pytest.mark.parametrize(
    ("column", "number"),
    [*((column, 2**31 - below) for column in ("fence", "attempts") for below in (1, 2)), ("last_seq", 2**63 - 1)],
)
def test_job_whose_numbers_cannot_grow_stops_no_other(database: Database, column: str, number: int) -> None:
    damaged, sound = registry.submit(database), registry.submit(database)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == damaged.id).values({column: number}))
    assert registry.claimed(database).id == sound.id
    assert registry.claim(database) is None
    if number == 2**31 - 1:
        assert (registry.get(database, damaged).unreadable or "").startswith(f"{column}: ")


@pytest.mark.parametrize(("column", "number"), [("fence", 2**31 - 3), ("attempts", 2**31 - 3), ("last_seq", 2**62 - 1)])
def test_job_whose_numbers_can_grow_is_claimed(database: Database, column: str, number: int) -> None:
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values({column: number}))
    assert registry.claimed(database).id == job.id


def test_companion_that_does_not_fit_any_more_keeps_out_no_smaller_one(database: Database) -> None:
    registry.submit(database, together=True, memory_bytes=2**30, priority=1)
    registry.submit(database, together=True, memory_bytes=3 * 2**30)
    small = registry.submit(database, together=True, memory_bytes=2**30)
    leader = registry.claimed(database)
    assert companions(database, leader, memory_bytes=3 * 2**30) == [small.id]


def test_jobs_of_one_claim_have_leases_and_events_of_their_own(database: Database) -> None:
    """They have the same worker, fence and token."""
    together(database, 4)
    leader = registry.claimed(database)
    with database.write() as session:
        taken = claims.claim_companions(
            session, leader, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT, limit=8, token="t"
        )
    assert len(taken) == 3
    for number, job in enumerate(taken, start=1):
        with database.write() as session:
            assert attempts.renew(session, job, 500).lease_until is not None
            assert attempts.append_events(session, job, [NewEvent(type="message", message="on")] * number) == 2 + number
    for job in taken:
        assert registry.succeed(database, job).id == job.id
    assert registry.get(database, leader) == leader


def test_claim_behind_the_front_does_not_wait_for_another_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer")
    monkeypatch.setattr(claims, "FRONT_JOBS", 0)
    for owner in ("ada", "ben"):
        registry.submit(database, owner=owner)
    for slot in (registry.ANY_SLOT, registry.ANY_SLOT.evolve(owner_running=5)):
        with database.write() as first, database.write() as second:
            first.execute(sa.select(tables.jobs.c.id).with_for_update())
            assert claims.claim(second, worker="w", lease_seconds=60, capabilities=slot) is None
