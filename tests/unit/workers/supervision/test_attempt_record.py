"""Writes of an attempt: its events and its end, also to a database that goes away."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.registry import attempts, claims, jobs
from finch_hub.registry.database import Database, Session
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobResult, JobState
from finch_hub.workers.logs.context import identify
from finch_hub.workers.supervision import clock, lease
from finch_hub.workers.supervision.attempt_record import AttemptRecord
from finch_hub.workers.supervision.event_buffer import EventBuffer
from finch_hub.workers.supervision.lease import ClaimedJob, Lease

from .conftest import Clock, WordRedactor


@pytest.fixture
def record_of(tmp_path: Path) -> Callable[[Job, Any], AttemptRecord]:
    """Return a function that makes the record of an attempt, in a worker that is to end."""
    loaded = settings.load(home=tmp_path, grace_seconds=0.1, max_attempts=2, retry_seconds=0)
    stopping = threading.Event()
    stopping.set()
    redactor = WordRedactor()

    def make(job: Job, database: Any) -> AttemptRecord:
        context: Any = SimpleNamespace(
            stores=SimpleNamespace(settings=loaded, database=database), events=EventBuffer(database), redactor=redactor
        )
        claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
        held = Lease(database, claimed, loaded, stopping=stopping)
        return AttemptRecord(context, job, held, claim_next=lambda session, token: None)

    return make


class UnreachableDatabase:
    """A database that undoes its first `times` transactions when they are committed."""

    def __init__(self, database: Database, times: float) -> None:
        self.database, self.times = database, times

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        with self.database.write() as session:
            yield session
            if self.times > 0:
                self.times -= 1
                raise errors.Unavailable("the database does not answer")


def messages(database: Database, job: Job) -> list[str]:
    """Return the messages of a job that its attempts wrote."""
    with database.read() as session:
        return [event.message for event in jobs.list_events(session, job.id) if event.type == "message"]


def test_events_are_stored_without_secrets(database: Database, record_of: Callable[[Job, Any], AttemptRecord]) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, database)
    assert record.seconds_until_due() == float("inf")
    record.add_message("the secret")
    data = {"texts": ["a secret", {"api_key": "x1-y2"}], "step": 1, "password": "hunter22"}
    record.add_event(NewEvent(type="metrics", data=data))
    assert record.seconds_until_due() <= 1.0
    wait_until(lambda: record.seconds_until_due() <= 0, "the message to be due")
    record.write_due_events()
    assert messages(database, job) == ["the ***"]
    with database.read() as session:
        (event,) = (event for event in jobs.list_events(session, job.id) if event.type == "metrics")
    assert event.data == {"texts": ["a ***", {"api_key": "***"}], "step": 1, "password": "***"}


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (lambda record: record.succeed(lambda session: JobResult(report={})), JobState.SUCCEEDED),
        (lambda record: record.fail("no", retry=False), JobState.FAILED),
        (lambda record: record.cancel(), JobState.CANCELLED),
        (lambda record: record.hand_back(), JobState.QUEUED),
    ],
)
def test_events_that_are_left_are_written_with_the_end(
    end: Callable[[AttemptRecord], None],
    state: JobState,
    database: Database,
    record_of: Callable[[Job, Any], AttemptRecord],
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, database)
    record.add_message("half done")
    if state is JobState.CANCELLED:
        registry.cancel(database, job)
    end(record)
    assert record.ended_job is not None
    assert record.ended_job.state is state
    assert messages(database, job) == ["half done"]


def test_failure_is_tried_again_as_often_as_the_settings_allow(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    ends = []
    for _ in range(2):
        record = record_of(registry.claimed(database), database)
        record.fail("the secret does not answer", retry=True)
        assert record.ended_job is not None
        ends.append((record.ended_job.state, record.ended_job.reason))
    reason = "the *** does not answer"
    assert ends == [(JobState.QUEUED, reason), (JobState.FAILED, reason)]


def test_failure_that_cannot_succeed_is_final(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    record = record_of(registry.claimed(database), database)
    record.fail("it does not fit", retry=False)
    assert record.ended_job is not None
    assert record.ended_job.state is JobState.FAILED


def test_reason_to_train_alone_is_stored_without_secrets(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database, together=True)
    record = record_of(registry.claimed(database), database)
    record.hand_back(alone="the secret broke")
    assert record.ended_job is not None
    with database.read() as session:
        stored = repr(
            [*jobs.list_events(session, record.ended_job.id), *jobs.list_attempts(session, record.ended_job.id)]
        )
    assert "secret" not in stored
    assert "the *** broke" in stored


def test_cancellation_while_the_result_is_stored_cancels_the_job(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, database)
    registry.cancel(database, job)
    record.succeed(lambda session: JobResult(report={}))
    assert record.ended_job is not None
    assert record.ended_job.state is JobState.CANCELLED


def test_result_that_the_registry_refuses_fails_the_job_for_good(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    def refuse(session: Session) -> JobResult:
        raise errors.Conflict("the name is taken")

    registry.submit(database)
    record = record_of(registry.claimed(database), database)
    record.succeed(refuse)
    assert record.ended_job is not None
    assert (record.ended_job.state, record.ended_job.reason) == (JobState.FAILED, "the name is taken")


def test_database_with_another_schema_is_not_waited_for(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    @contextlib.contextmanager
    def write() -> Iterator[Session]:
        raise errors.SchemaMismatch("the schema is newer")
        yield

    registry.submit(database)
    record = record_of(registry.claimed(database), SimpleNamespace(write=write))
    with pytest.raises(errors.SchemaMismatch):
        record.cancel()


def test_lease_of_the_next_job_counts_from_before_it_was_claimed(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(clock, "elapsed", lambda: now[0])
    registry.submit(database)
    record = record_of(registry.claimed(database), database)
    following = registry.submit(database)

    def claim_slowly(session: Session, token: str) -> Job | None:
        now[0] += 5.0
        return claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT)

    monkeypatch.setattr(record, "_claim_next", claim_slowly)
    record.fail("it broke", retry=False)
    assert record.next_job is not None
    assert (record.next_job.job.id, record.next_job.requested_at) == (following.id, 1000.0)


def test_end_that_was_undone_and_then_refused_is_not_reported(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, UnreachableDatabase(database, 1))

    def let_another_attempt_claim(seconds: float) -> None:
        with database.write() as session:
            attempts.hand_back(session, job)
        registry.claimed(database)

    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=let_another_attempt_claim))
    with pytest.raises(errors.StaleFence):
        record.succeed(lambda session: JobResult(report={}))
    assert record.ended_job is None


def test_result_has_the_empty_fields_of_its_report_and_no_others(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    record = record_of(registry.claimed(database), database)
    record.succeed(
        lambda session: JobResult(metrics={"perplexity": None}, report={"rank": None, "data": {"cut": None}})
    )
    assert record.ended_job is not None
    assert record.ended_job.result == {"metrics": {"perplexity": None}, "report": {"rank": None, "data": {"cut": None}}}


def test_worker_that_is_to_end_waits_for_the_database_no_longer_than_its_grace(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, UnreachableDatabase(database, float("inf")))
    with pytest.raises(errors.StaleFence):
        record.hand_back()


@pytest.mark.parametrize(
    "error", [ValueError("a row that cannot be read"), errors.Unavailable("the claim took too long")]
)
def test_claim_that_fails_does_not_undo_the_end_before_it(
    error: Exception,
    database: Database,
    record_of: Callable[[Job, Any], AttemptRecord],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(session: Session, token: str) -> Job | None:
        claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT)
        raise error

    registry.submit(database)
    job = registry.claimed(database)
    following = registry.submit(database)
    record = record_of(job, database)
    monkeypatch.setattr(record, "_claim_next", fail)
    record.succeed(lambda session: JobResult(report={}))
    assert registry.get(database, job).state is JobState.SUCCEEDED
    assert record.next_job is None
    assert registry.get(database, following).state is JobState.QUEUED
    assert {"action": "claim", "error": str(error), **identify(job)} in list_said(caplog)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (lambda record: record.succeed(lambda session: JobResult(report={})), "succeeded"),
        (lambda record: record.fail("it broke", retry=True), "failed"),
        (lambda record: record.fail("it broke", retry=False), "failed"),
        (lambda record: record.hand_back(), "handed_back"),
        (lambda record: record.set_aside("a later version"), "handed_back"),
        (lambda record: record.pass_on("the store is away", alone="wait"), "handed_back"),
        (lambda record: record.pass_on("an artifact is missing", alone="fail"), "failed"),
    ],
)
def test_outcome_is_known_at_the_end_and_a_requested_cancellation_wins(
    end: Callable[[AttemptRecord], None],
    outcome: str,
    database: Database,
    record_of: Callable[[Job, Any], AttemptRecord],
) -> None:
    registry.submit(database)
    record = record_of(registry.claimed(database), database)
    assert record.outcome == "lost"
    end(record)
    assert record.outcome == outcome
    registry.submit(database)
    cancelled = registry.claimed(database)
    record = record_of(cancelled, database)
    with database.write() as session:
        jobs.request_cancel(session, cancelled.id)
    end(record)
    assert record.outcome == ("failed" if registry.get(database, cancelled).state is JobState.FAILED else "cancelled")


class UncertainDatabase:
    """A database whose first `times` commits succeed, although the connection breaks before it says so."""

    def __init__(self, database: Database, times: float) -> None:
        self.database, self.times = database, times

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        with self.database.write() as session:
            yield session
        if self.times > 0:
            self.times -= 1
            raise errors.Unavailable("the connection broke")


def patient(record: AttemptRecord, monkeypatch: pytest.MonkeyPatch) -> AttemptRecord:
    """Let a record claim the next job, and wait for the database without sleeping."""

    def claim_next(session: Session, token: str) -> Job | None:
        return claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT, token=token)

    monkeypatch.setattr(record, "_claim_next", claim_next)
    monkeypatch.setattr(record._lease, "wait_for_database", lambda since: None)
    return record


@pytest.mark.parametrize("times", [1, 3])
def test_job_that_was_claimed_by_a_commit_of_unknown_outcome_runs_next(
    times: int, database: Database, record_of: Callable[[Job, Any], AttemptRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    following, last = registry.submit(database), registry.submit(database)
    record = patient(record_of(job, UncertainDatabase(database, times)), monkeypatch)
    record.add_message("the last words")
    record.succeed(lambda session: JobResult(report={}))
    assert record.next_job is not None
    assert record.next_job.job == registry.get(database, following)
    assert record.ended_job == registry.get(database, job)
    assert registry.get(database, job).state is JobState.SUCCEEDED
    assert registry.get(database, last).state is JobState.QUEUED, "one job is claimed, not one for each try"
    assert messages(database, job) == ["the last words"]


def test_job_that_was_claimed_runs_next_although_the_ended_one_was_deleted(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    following = registry.submit(database)
    record = patient(record_of(job, UncertainDatabase(database, 1)), monkeypatch)

    def prune(since: float) -> None:
        with database.write() as session:
            assert jobs.prune(session, beyond=0) == [job.id]

    monkeypatch.setattr(record._lease, "wait_for_database", prune)
    record.succeed(lambda session: JobResult(report={}))
    assert record.next_job is not None
    assert (record.next_job.job.id, record.ended_job) == (following.id, None)


@pytest.mark.parametrize("is_ended", [False, True])
def test_events_of_a_commit_of_unknown_outcome_are_written_once(
    is_ended: bool,
    database: Database,
    record_of: Callable[[Job, Any], AttemptRecord],
    hands: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    uncertain = UncertainDatabase(database, 0)
    record = patient(record_of(job, uncertain), monkeypatch)
    for text in ("first", "second", "third"):
        record.add_message(text)
        hands.now += 1.0
        uncertain.times = 1 if text != "first" else 0
        record.write_due_events()
    assert messages(database, job) == ["first", "second", "third"]
    record.add_message("last")
    hands.now += 1.0
    if is_ended:
        record.fail("it broke", retry=False)
    else:
        record.write_due_events()
    assert messages(database, job) == ["first", "second", "third", "last"]
