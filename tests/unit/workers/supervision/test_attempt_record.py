"""Writes of an attempt to a database that goes away. The rest is tested with real processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry

from finch_hub import errors, settings
from finch_hub.registry import attempts
from finch_hub.registry.database import Database, Session
from finch_hub.specs.jobs import Job, JobResult
from finch_hub.workers.supervision import clock, lease
from finch_hub.workers.supervision.attempt_record import AttemptRecord
from finch_hub.workers.supervision.lease import ClaimedJob, Lease


@pytest.fixture
def record_of(tmp_path: Path) -> Callable[[Job, Any], AttemptRecord]:
    """Return a function that makes the record of an attempt, in a worker that is to end."""
    loaded = settings.load(home=tmp_path, grace_seconds=0.1)
    stopping = threading.Event()
    stopping.set()

    def make(job: Job, database: Any) -> AttemptRecord:
        context: Any = SimpleNamespace(stores=SimpleNamespace(settings=loaded, database=database))
        claimed = ClaimedJob(job=job, requested_at=clock.elapsed())
        held = Lease(database, claimed, loaded, stopping=stopping)
        return AttemptRecord(context, job, held, claim_next=lambda session: None)

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


def test_end_that_was_undone_and_then_refused_is_not_reported(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, UnreachableDatabase(database, 1))

    def let_another_attempt_claim(seconds: float) -> None:
        with database.write() as session:
            attempts.hand_back(session, job.id, job.fence)
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
    assert record.ended_job.result == {
        "metrics": {"perplexity": None},
        "report": {"rank": None, "data": {"cut": None}},
    }


def test_worker_that_is_to_end_waits_for_the_database_no_longer_than_its_grace(
    database: Database, record_of: Callable[[Job, Any], AttemptRecord]
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    record = record_of(job, UnreachableDatabase(database, float("inf")))
    with pytest.raises(errors.StaleFence):
        record.hand_back()
