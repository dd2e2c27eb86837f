"""What a worker makes of a wake-up; what it does with jobs is tested with real processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from support import services

from finch_hub import settings
from finch_hub.registry import jobs
from finch_hub.registry.database import Database
from finch_hub.registry.transitions import jobs as table
from finch_hub.specs.jobs import ExportSpec
from finch_hub.workers import worker as module
from finch_hub.workers.worker import Worker

SPEC = ExportSpec(adapter="finch", format="peft", out="/nowhere")


@pytest.fixture
def database(postgres_url: str, tmp_path: Path) -> Iterator[Database]:
    """On PostgreSQL: claims on SQLite wait for whoever writes."""
    databases = services.Databases(tmp_path, postgres_url)
    made = Database(databases.new(), allow_insecure=True)
    yield made
    made.close()
    databases.close()


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(settings.load(home=tmp_path, database_url=database.url.render_as_string(hide_password=False)))
    yield made
    made._claims.close()
    made._slots.close()
    made._dispatcher.close()
    made._stores.database.close()


def test_a_job_whose_row_is_locked_when_it_is_rung_for_is_claimed_once_it_is_not(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only other bell is the reconciler's, a minute later."""
    with database.write() as session:
        job = jobs.submit(session, SPEC)
    ran: list[str] = []
    monkeypatch.setattr(worker, "_run", lambda attempt, slot: ran.extend(attempt.job_ids))
    with contextlib.ExitStack() as lock:
        locking = lock.enter_context(database.write())
        locking.execute(sa.select(table.c.id).where(table.c.id == job.id).with_for_update())
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: lock.close()))
        worker._wake(job.id)
    assert ran == [job.id]
