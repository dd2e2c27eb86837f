"""What a worker makes of a wake-up; what it does with jobs is tested with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from support import services

from finch_hub import settings
from finch_hub.registry import jobs, workers
from finch_hub.registry.database import Database
from finch_hub.registry.transitions import jobs as table
from finch_hub.specs.jobs import ExportSpec, Requirements
from finch_hub.workers import worker as module
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.maintenance import Keeper
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


def test_one_that_was_killed_makes_room_for_a_namesake_with_its_process_id(worker: Worker, database: Database) -> None:
    """As of a container that is started again."""
    killed = worker._register()
    assert killed.pid == os.getpid()
    started = worker._register()
    assert started.instance != killed.instance
    with database.read() as session:
        assert [one.instance for one in workers.find(session)] == [started.instance]


def test_what_belongs_to_another_database_of_the_home_is_not_tidied_away(worker: Worker, tmp_path: Path) -> None:
    ours, theirs = worker._settings.work, settings.load(home=tmp_path).work
    for work in (ours, theirs):
        (work / "unknownjob" / "1").mkdir(parents=True)
    keeper = Keeper(
        worker._register(),
        worker._stores,
        worker._folders,
        worker._slots,
        worker._claims,
        worker._dispatcher,
        on_demand=False,
        end=lambda: None,
    )
    keeper._remove_finished_folders()
    assert not (ours / "unknownjob").exists()
    assert (theirs / "unknownjob" / "1").exists()


def test_only_one_that_left_for_want_of_work_looks_for_what_it_overlooked(worker: Worker, database: Database) -> None:
    worker._keeper = SimpleNamespace(left_idle=True)  # type: ignore[assignment]
    with database.write() as session:
        jobs.submit(session, SPEC, requirements=Requirements(labels=("big",)))
    assert not worker.overlooked_work(), "one that it could never run"
    with database.write() as session:
        jobs.submit(session, SPEC)
    assert worker.overlooked_work()
    worker._keeper.left_idle = False
    assert not worker.overlooked_work(), "it was told to end"


def test_one_that_is_ended_while_it_starts_leaves_no_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker(settings.load(home=tmp_path))
    answered: list[bool] = []

    def ended() -> None:
        answered.append(home_broker.answers(made._settings))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(made, "_register", ended)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            made.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert answered == [True]
    assert not home_broker.answers(made._settings)
