"""Events of several attempts in one transaction: in order, none lost, and a bound of a second."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event
from support import registry
from support.logs import list_said

from finch_hub import errors
from finch_hub.registry import attempts, jobs
from finch_hub.registry.database import Database, Session
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job
from finch_hub.workers.supervision import event_buffer
from finch_hub.workers.supervision.event_buffer import EventBuffer

from .conftest import Clock


def claim(database: Database, number: int) -> list[Job]:
    for _ in range(number):
        registry.submit(database)
    return [registry.claimed(database) for _ in range(number)]


def progress(step: int) -> NewEvent:
    return NewEvent(type="progress", data={"step": step})


def steps(database: Database, job: Job) -> list[int]:
    """Return the steps of the events that attempts reported, after checking that numbers have no gaps."""
    with database.read() as session:
        events = jobs.list_events(session, job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.data["step"] for event in events if event.type in ("progress", "metrics")]


class Interrupted:
    """A database whose writes wait, or fail, before their commit."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.error_after: Exception | None = None  # raised after the commit

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        with self.database.write() as session:
            yield session
            self.entered.set()
            assert self.go.wait(60)
            if self.error is not None:
                raise self.error
        if self.error_after is not None:
            raise self.error_after


def test_events_of_all_attempts_share_one_commit_when_they_are_due(database: Database, hands: Clock) -> None:
    claimed, buffer = claim(database, 20), EventBuffer(database)
    for step in range(3):
        for job in claimed:
            buffer.add(job, progress(step))
        hands.now += 0.3
        buffer.write_due()
    assert steps(database, claimed[0]) == []
    assert 0 < buffer.seconds_until_due() <= 1
    commits: list[Any] = []
    event.listen(database._engine, "commit", commits.append)
    hands.now += 0.3
    buffer.write_due()
    buffer.write_due()
    assert [steps(database, job) for job in claimed] == [[0, 1, 2]] * 20
    assert len([c for c in commits if not c.get_execution_options().get("read_only")]) == 1
    assert buffer.seconds_until_due() == float("inf")


@pytest.mark.parametrize("kind", ["metrics", "report"])
def test_evaluations_and_reports_are_due_at_once(kind: Any, database: Database, hands: Clock) -> None:
    (job,), buffer = claim(database, 1), EventBuffer(database)
    buffer.add(job, progress(1))
    assert buffer.seconds_until_due() == 1
    buffer.add(job, NewEvent(type=kind, data={"step": 2}))
    assert buffer.seconds_until_due() == 0
    buffer.write_due()
    with database.read() as session:
        assert [entry.type for entry in jobs.list_events(session, job.id)][-2:] == ["progress", kind]


def test_many_events_of_one_attempt_are_due_at_once(database: Database, hands: Clock) -> None:
    (job,), buffer = claim(database, 1), EventBuffer(database)
    for step in range(event_buffer._MAX_EVENTS):
        assert buffer.seconds_until_due() > 0
        buffer.add(job, progress(step))
    buffer.write_due()
    assert len(steps(database, job)) == event_buffer._MAX_EVENTS


def test_events_wait_in_order_for_a_database_that_does_not_answer(database: Database, hands: Clock) -> None:
    (job,), interrupted = claim(database, 1), Interrupted(database)
    buffer = EventBuffer(interrupted)  # type: ignore[arg-type]
    interrupted.error = errors.Unavailable("the database does not answer")
    buffer.add(job, progress(1))
    hands.now += 1
    buffer.write_due()
    assert buffer.seconds_until_due() == 1, "the database is not asked again at once"
    buffer.add(job, progress(2))
    interrupted.error = None
    hands.now += 1
    buffer.write_due()
    assert steps(database, job) == [1, 2]


def test_events_of_a_commit_without_an_answer_are_written_once(database: Database, hands: Clock) -> None:
    (job,), interrupted = claim(database, 1), Interrupted(database)
    buffer = EventBuffer(interrupted)  # type: ignore[arg-type]
    for step in (1, 2, 3):
        buffer.add(job, progress(step))
        hands.now += 1
        interrupted.error_after = errors.Unavailable("no answer") if step < 3 else None
        buffer.write_due()
    assert steps(database, job) == [1, 2, 3]
    buffer.add(job, progress(4))
    hands.now += 1
    interrupted.error_after = errors.Unavailable("no answer")
    buffer.write_due()
    buffer.add(job, progress(5))
    with database.write() as session:
        attempts.succeed(session, job, {}, events=buffer.take(job).find_unwritten(session))
    assert steps(database, job) == [1, 2, 3, 4, 5]


def test_end_waits_for_the_write_of_earlier_events(database: Database, hands: Clock) -> None:
    (job,), interrupted = claim(database, 1), Interrupted(database)
    buffer = EventBuffer(interrupted)  # type: ignore[arg-type]
    buffer.add(job, progress(1))
    hands.now += 1
    interrupted.go.clear()
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(buffer.write_due)
        interrupted.entered.wait()
        buffer.add(job, progress(2))
        taken = pool.submit(buffer.take, job)
        assert not taken.done()
        interrupted.go.set()
        written.result()
    assert [entry.data["step"] for entry in taken.result().events] == [2]
    assert steps(database, job) == [1]
    buffer.write_due()
    assert buffer.take(job).events == []


def test_events_of_an_attempt_that_lost_its_job_are_dropped(database: Database, hands: Clock) -> None:
    (lost, kept), buffer = claim(database, 2), EventBuffer(database)
    for job in (lost, kept):
        buffer.add(job, progress(1))
    with database.write() as session:
        attempts.hand_back(session, lost)
    hands.now += 1
    buffer.write_due()
    assert (steps(database, lost), steps(database, kept)) == ([], [1])


def test_event_that_cannot_be_stored_costs_no_other_attempt_its_events(
    database: Database, hands: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (broken, whole), buffer = claim(database, 2), EventBuffer(database)
    buffer.add(broken, NewEvent(type="progress", data={"step": 1, "model": object()}))
    buffer.add(whole, progress(1))
    hands.now += 1
    with caplog.at_level(logging.ERROR):
        buffer.write_due()
    assert (steps(database, broken), steps(database, whole)) == ([], [1])
    assert [(said["action"], said["job_id"]) for said in list_said(caplog)] == [("append_events", broken.id)]


def test_event_that_cannot_be_stored_does_not_count_as_written(database: Database, hands: Clock) -> None:
    (job,), interrupted = claim(database, 1), Interrupted(database)
    buffer = EventBuffer(interrupted)  # type: ignore[arg-type]
    buffer.add(job, NewEvent(type="progress", data={"step": 1, "model": object()}))
    hands.now += 1
    buffer.write_due()
    for step in (2, 3):
        buffer.add(job, progress(step))
    interrupted.error_after = errors.Unavailable("the connection broke")
    hands.now += 1
    buffer.write_due()
    interrupted.error_after = None
    hands.now += 1
    buffer.write_due()
    assert steps(database, job) == [2, 3]


def test_events_of_an_attempt_that_ended_without_a_write_are_forgotten(database: Database, hands: Clock) -> None:
    """Also while they are written, since the database may not answer."""
    (job,), interrupted = claim(database, 1), Interrupted(database)
    buffer = EventBuffer(interrupted)  # type: ignore[arg-type]
    buffer.add(job, progress(1))
    hands.now += 1
    interrupted.go.clear()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(buffer.write_due)
        assert interrupted.entered.wait(60)
        buffer.forget(job)
        interrupted.go.set()
        written.result()
    assert not buffer._batches


def test_events_of_many_threads_are_written_in_order_until_their_ends(database: Database) -> None:
    claimed, buffer, number = claim(database, 6), EventBuffer(database), 30

    def work(job: Job) -> None:
        for step in range(number):
            buffer.add(job, NewEvent(type="metrics", data={"step": step}) if step % 7 == 0 else progress(step))
            buffer.write_due()
        left = buffer.take(job)
        with database.write() as session:
            attempts.succeed(session, job, {}, events=left.find_unwritten(session))

    with ThreadPoolExecutor(len(claimed)) as pool:
        list(pool.map(work, claimed))
    for job in claimed:
        assert steps(database, job) == list(range(number))
