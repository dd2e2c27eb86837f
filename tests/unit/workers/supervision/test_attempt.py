"""What an attempt says of itself where the database goes away; the rest is tested with real processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import registry

from finch_hub import errors, settings
from finch_hub.registry import attempts
from finch_hub.registry.database import Database, Session
from finch_hub.specs.jobs import Job
from finch_hub.storage.stores import open_stores
from finch_hub.workers.supervision.attempt import Attempt


@pytest.fixture
def attempt_at(tmp_path: Path) -> Iterator[Callable[[Job, Any], Attempt]]:
    """Return what makes an attempt at a job, of a worker that is to end."""
    stores = open_stores(settings.load(home=tmp_path, grace_seconds=0.1))
    stopping = threading.Event()
    stopping.set()

    def made(job: Job, database: Any) -> Attempt:
        object.__setattr__(stores, "database", database)
        return Attempt(
            job,
            asked=0.0,
            stores=stores,
            claim_next=lambda session, child: None,
            stopping=stopping,
            memory_limit=2**40,
            **dict.fromkeys(("leases", "folders", "helpers", "child", "redactor")),  # type: ignore[arg-type]
        )

    yield made
    stores.database.close()


class Away:
    """A database whose transactions are undone when they are committed, so many times."""

    def __init__(self, real: Database, times: float) -> None:
        self.real, self.times = real, times

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        with self.real.write() as session:
            yield session
            if self.times > 0:
                self.times -= 1
                raise errors.Unavailable("it is away")

    def close(self) -> None:
        self.real.close()


def test_what_was_undone_and_is_another_attempts_by_then_is_not_told(
    database: Database, attempt_at: Callable[[Job, Any], Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    attempt = attempt_at(job, Away(database, 1))

    def meanwhile(seconds: float) -> None:
        with database.write() as session:
            attempts.hand_back(session, job.id, job.fence)
        registry.claimed(database)

    monkeypatch.setattr(attempt.time, "sleep", meanwhile)
    with pytest.raises(errors.StaleFence):
        attempt._write(lambda session: attempts.succeed(session, job.id, job.fence, {}))
    assert attempt.all_ended == []


def test_a_worker_that_is_to_end_waits_for_the_database_no_longer_than_its_grace(
    database: Database, attempt_at: Callable[[Job, Any], Attempt]
) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    attempt = attempt_at(job, Away(database, float("inf")))
    with pytest.raises(errors.StaleFence):
        attempt._write(lambda session: attempts.hand_back(session, job.id, job.fence))
