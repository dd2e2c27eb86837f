from __future__ import annotations

import contextlib
import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry
from support.children import FakeChild
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job
from finch_hub.workers.supervision import clock, instruments
from finch_hub.workers.supervision import lease as module
from finch_hub.workers.supervision.lease import ClaimedJob, Lease, Leases


def test_unexpected_error_of_one_renewal_does_not_end_the_renewals(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such an error comes, for example, when the owner of a database revokes a permission for a moment."""
    registry.submit(database)
    job = registry.claimed(database)
    renew = attempts.renew
    failures: list[bool] = []

    def fail_once(*arguments: object) -> object:
        if not failures:
            failures.append(True)
            raise sa.exc.ProgrammingError("UPDATE jobs", {}, Exception("permission denied"))
        return renew(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(attempts, "renew", fail_once)
    hurried = settings.load().model_copy(update={"heartbeat_seconds": 0.1, "lease_seconds": 30.0})
    leases = Leases(database, hurried, stopping=threading.Event())
    claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
    with caplog.at_level(logging.ERROR), leases.hold(claimed) as lease:
        first = lease.certain_until
        wait_until(lambda: lease.certain_until > first, "the next renewal")
    leases.close()
    assert failures
    assert "permission denied" in str(list_said(caplog)[0]["error"])


class Clock:
    """A clock that goes on when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock, "elapsed", lambda: self.now)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def held(database: Database, hands: Clock) -> Lease:
    """A lease of 60 s on a job that may take 100 s, renewed every 5 s."""
    registry.submit(database, time_limit=100.0)
    return lease_of(registry.claimed(database, lease=3600.0), database, hands)


def lease_of(job: Job, database: Any, hands: Clock, *, stopping: threading.Event | None = None) -> Lease:
    in_force = settings.load(lease_seconds=60.0, heartbeat_seconds=5.0, grace_seconds=20.0)
    claimed = ClaimedJob(job=job, requested_at=hands.now)
    return Lease(database, claimed, in_force, stopping=stopping or threading.Event())


def test_child_is_suspended_when_the_certain_time_ends_and_resumed_by_a_renewal(held: Lease, hands: Clock) -> None:
    child = FakeChild()
    held.guard(child)
    hands.now += 59.0
    assert not held.suspend_if_in_doubt()
    hands.now += 1.0
    assert held.suspend_if_in_doubt()
    assert held.suspend_if_in_doubt()
    assert child.calls == ["suspend"], "a suspended child is not suspended again"
    held.renew()
    assert child.calls == ["suspend", "resume"]
    assert held.certain_until == hands.now + 60.0


def test_time_in_doubt_does_not_count_towards_the_time_limit(held: Lease, hands: Clock) -> None:
    hands.now += 70.0
    assert held.suspend_if_in_doubt()
    assert held.elapsed() == 1060.0, "the doubt began when the certain time ended"
    hands.now += 1000.0
    assert held.elapsed() == 1060.0
    assert held.stop_reason() is None
    held.renew()
    hands.now += 40.0
    assert held.elapsed() == 1100.0
    assert held.stop_reason() is None
    hands.now += 0.1
    assert held.stop_reason() == "time_limit"


def test_times_in_doubt_add_up(held: Lease, hands: Clock) -> None:
    for seconds in (10.0, 20.0):
        hands.now = held.certain_until
        held.suspend_if_in_doubt()
        hands.now += seconds
        held.renew()
    assert held.elapsed() == hands.now - 30.0


def test_lease_counts_from_before_its_claim_or_renewal_was_sent(
    database: Database, hands: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=3600.0)
    in_force = settings.load(lease_seconds=60.0, heartbeat_seconds=5.0)
    claimed = ClaimedJob(job=job, requested_at=hands.now - 3.0)
    lease = Lease(database, claimed, in_force, stopping=threading.Event())
    assert (lease.certain_until, lease.renew_at) == (1057.0, 1005.0)
    renew = attempts.renew

    def renew_slowly(*arguments: Any) -> Any:
        hands.now += 2.0
        return renew(*arguments)

    monkeypatch.setattr(attempts, "renew", renew_slowly)
    lease.renew()
    assert (lease.certain_until, lease.renew_at) == (1060.0, 1005.0)


def test_renewal_that_failed_is_tried_again_after_a_second(
    held: Lease, hands: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise errors.Unavailable("the database does not answer")

    monkeypatch.setattr(attempts, "renew", fail)
    held.keep()
    assert held.renew_at == hands.now + 1.0
    assert held.certain_until == 1060.0


def test_recovery_asks_again_until_the_lease_is_certain(
    held: Lease, hands: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = attempts.renew
    waits: list[float] = []

    def answer_the_third_time(*arguments: Any) -> Any:
        if len(waits) < 2:
            raise errors.Unavailable("the database does not answer")
        return renew(*arguments)

    monkeypatch.setattr(attempts, "renew", answer_the_third_time)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    hands.now += 60.0
    held.recover()
    assert len(waits) == 2
    assert not held.suspend_if_in_doubt()


def test_worker_that_is_to_end_waits_for_the_database_during_its_grace(database: Database, hands: Clock) -> None:
    registry.submit(database)
    stopping = threading.Event()
    lease = lease_of(registry.claimed(database), database, hands, stopping=stopping)
    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
        lease.wait_for_database(hands.now - 3600.0)
        stopping.set()
        lease.wait_for_database(hands.now - 20.0)
        with pytest.raises(errors.StaleFence):
            lease.wait_for_database(hands.now - 20.1)
    assert len(waits) == 2


def test_thread_suspends_the_child_of_a_lease_in_doubt(database: Database) -> None:
    registry.submit(database)
    hurried = settings.load().model_copy(update={"heartbeat_seconds": 1.0, "lease_seconds": 0.1})
    leases = Leases(database, hurried, stopping=threading.Event())
    child = FakeChild()
    with leases.hold(ClaimedJob(job=registry.claimed(database), requested_at=clock.elapsed())) as lease:
        lease.guard(child)
        wait_until(lambda: child.calls[:1] == ["suspend"], "the child to be suspended")
    renewals = len(child.calls) // 2  # on a busy machine, a renewal may have come between
    assert child.calls == ["suspend", "resume"] * max(1, renewals), "it serves the next job"
    assert leases._held == frozenset()
    leases.close()


def test_renewal_that_came_too_late_leaves_the_lease_in_doubt(
    held: Lease, hands: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped for longer than a lease between the renewal and its answer."""
    child, renew = FakeChild(), attempts.renew
    held.guard(child)
    hands.now += 60.0
    held.suspend_if_in_doubt()

    def renew_slowly(*arguments: Any) -> Any:
        renewed = renew(*arguments)
        hands.now += 61.0
        return renewed

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "renew", renew_slowly)
        held.renew()
    assert child.calls == ["suspend"]
    assert held.suspend_if_in_doubt()
    held.renew()
    assert child.calls == ["suspend", "resume"]


def test_child_that_is_released_in_doubt_is_resumed_for_the_next_job(held: Lease, hands: Clock) -> None:
    child = FakeChild()
    held.guard(child)
    hands.now += 60.0
    held.suspend_if_in_doubt()
    held.release()
    assert child.calls == ["suspend", "resume"]
    hands.now += 60.0
    held.suspend_if_in_doubt()
    assert child.calls == ["suspend", "resume"], "the lease guards it no longer"


def test_child_that_starts_in_doubt_is_suspended_at_once(held: Lease, hands: Clock) -> None:
    child = FakeChild()
    hands.now += 60.0
    held.suspend_if_in_doubt()
    held.guard(child)
    assert child.calls == ["suspend"]


def test_leases_in_doubt_are_counted_until_they_end(held: Lease, hands: Clock) -> None:
    counted = instruments.LEASES_IN_DOUBT._value.get
    before = counted()
    hands.now += 1000
    for _ in range(2):
        assert held.suspend_if_in_doubt()
        assert counted() == before + 1
    held.renew()
    assert counted() == before
    hands.now += 1000
    held.suspend_if_in_doubt()
    held.release()
    held.release()
    assert counted() == before
    assert held.suspend_if_in_doubt(), "the thread that looks for doubt had it at that moment"
    assert counted() == before


def test_lease_that_another_attempt_took_is_lost_for_ever(held: Lease, hands: Clock, database: Database) -> None:
    job = held._job
    with database.write() as session:
        attempts.hand_back(session, job)
    registry.claimed(database)
    for _ in range(2):
        with pytest.raises(errors.StaleFence):
            held.renew()
    assert held.suspend_if_in_doubt()
    held.keep()
    assert held.renew_at == float("inf")


def test_requested_stops_are_told_with_the_most_final_first(held: Lease, database: Database, hands: Clock) -> None:
    job = held._job
    stopping = threading.Event()
    lease = lease_of(job, database, hands, stopping=stopping)
    assert lease.stop_reason() is None
    hands.now += 101.0
    assert lease.stop_reason() == "time_limit"
    stopping.set()
    assert lease.stop_reason() == "hand_back"
    registry.cancel(database, job)
    lease.renew()
    assert lease.stop_reason() == "cancel"


def test_worker_renews_its_leases_before_it_sweeps(database: Database, hands: Clock) -> None:
    """After a sleep of the machine, the thread that sweeps may run before the one that renews."""
    for _ in range(2):
        registry.submit(database)
    jobs = [registry.claimed(database, lease=-1.0) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        leases = Leases(database, settings.load(), stopping=threading.Event())
        stack.callback(leases.close)
        kept, lost = (stack.enter_context(leases.hold(ClaimedJob(job=job, requested_at=hands.now))) for job in jobs)
        with database.write() as session:
            attempts.hand_back(session, jobs[1])
        kept.renew_at = lost.renew_at = hands.now
        assert leases.renew_due() == {jobs[0].id}
    renewed = registry.get(database, jobs[0])
    assert renewed.lease_until is not None
    assert jobs[0].lease_until is not None
    assert renewed.lease_until > jobs[0].lease_until
    assert registry.expire(database) == []


def test_close_waits_for_a_renewal_that_is_under_way(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker closes the database next."""
    began, ended = threading.Event(), threading.Event()

    def renew_slowly(lease: Lease) -> None:
        began.set()
        time.sleep(0.5)
        ended.set()

    monkeypatch.setattr(Lease, "keep", renew_slowly)
    registry.submit(database)
    hurried = settings.load().model_copy(update={"heartbeat_seconds": 0.1})
    leases = Leases(database, hurried, stopping=threading.Event())
    with leases.hold(ClaimedJob(job=registry.claimed(database), requested_at=clock.elapsed())):
        assert began.wait(60)
        leases.close()
        assert ended.is_set()
