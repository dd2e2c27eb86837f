from __future__ import annotations

import contextlib
import datetime
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.registry import audit, jobs, settlements, stuck_jobs, tables, types, values, workers
from finch_hub.registry.database import Database, Session
from finch_hub.registry.tables import jobs as job_table
from finch_hub.specs.jobs import JobState
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.logs.context import identify
from finch_hub.workers.maintenance import Maintenance
from finch_hub.workers.supervision import clock


class Worker:
    """Maintenance of a worker whose other parts are stand-ins, and what it asked of them."""

    def __init__(
        self, database: Database, home: Path, *, name: str = "one", is_on_demand: bool = False, **changes: Any
    ) -> None:
        self.ended = 0
        self.is_busy = self.is_wanted = False
        self.is_answered = True
        self.held: frozenset[str] = frozenset()
        self.claims = SimpleNamespace(
            is_draining=False,
            stopping=threading.Event(),
            renew_leases=self._renew_leases,
            readiness=SimpleNamespace(remark=None),
        )
        in_force = settings.load(**{"home": home, "broker_url": "redis://127.0.0.1:1", **changes})
        with database.write() as session:
            self.entry = workers.register(
                session,
                values.WorkerDescription(id=name, hostname="box", pid=1, version="1", schema_revision="1", devices=()),
            )
        worker = self

        class Slots:
            are_busy = property(lambda self: worker.is_busy)

            def refresh_devices(self) -> list[values.Device]:
                return []

            def are_wanted(self) -> bool:
                return worker.is_wanted

            def drop_idle_children(self, *, older_than: float) -> None:
                pass

        arguments: tuple[Any, ...] = (
            self.entry,
            SimpleNamespace(settings=in_force, database=database, redactor=Redactor.of(in_force)),
            Slots(),
            self.claims,
            SimpleNamespace(dispatch_due=self._dispatch_due),
        )
        self.maintenance = Maintenance(*arguments, is_on_demand=is_on_demand, end_worker=self._end)

    def _end(self) -> None:
        self.ended += 1

    def _renew_leases(self) -> frozenset[str]:
        self._dispatch_due()
        return self.held

    def _dispatch_due(self) -> None:
        if not self.is_answered:
            raise errors.Unavailable("the database does not answer")


def ended_days_ago(database: Database, days: float) -> str:
    job = registry.submit(database)
    registry.cancel(database, job)
    with database.write() as session:
        ended = types.later(-days * 24 * 3600.0)
        session.execute(sa.update(job_table).where(job_table.c.id == job.id).values(finished_at=ended))
    return job.id


def kept(database: Database) -> set[str]:
    with database.read() as session:
        return {job.id for job in jobs.find(session)}


def test_history_is_kept_for_so_many_days(database: Database, tmp_path: Path) -> None:
    old, young = ended_days_ago(database, 2.01), ended_days_ago(database, 1.99)
    Worker(database, tmp_path).maintenance._prune()
    assert kept(database) == {old, young}, "without a policy nothing is deleted"
    Worker(database, tmp_path, name="two", history_days=2.0).maintenance._prune()
    assert kept(database) == {young}
    youngest = ended_days_ago(database, 0.0)
    Worker(database, tmp_path, name="three", history_jobs=1).maintenance._prune()
    assert kept(database) == {youngest}


def test_audit_is_kept_for_so_many_days(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        for on in ("old", "young"):
            audit.add(session, who="ana", action="base.add", on=on, details={})
        is_old = tables.AuditRow.subject == "old"
        session.execute(sa.update(tables.AuditRow).where(is_old).values(at=types.later(-2.01 * 24 * 3600)))

    def kept() -> list[str]:
        with database.read() as session:
            return [entry.on for entry in audit.find(session)]

    Worker(database, tmp_path, history_days=1.0).maintenance._prune()
    assert kept() == ["young", "old"], "without a policy nothing is deleted"
    Worker(database, tmp_path, name="two", audit_days=2.0).maintenance._prune()
    assert kept() == ["young"]


def test_dependents_are_settled_until_none_are_left_or_a_heartbeat_is_near(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(database, tmp_path, heartbeat_seconds=5.0)
    now, left = clock.elapsed(), 3
    passed = [0.0]

    def settle_due(of: Database) -> bool:
        nonlocal left
        left -= 1
        passed[0] += 1.0
        return left > 0

    monkeypatch.setattr(settlements, "settle_due", settle_due)
    monkeypatch.setattr(clock, "elapsed", lambda: now + passed[0])
    worker.maintenance._look(now)
    assert left == 0
    left, passed[0] = 100, 0.0
    worker.maintenance._look(now)
    assert left == 97, "half a heartbeat is over after the third second"


def test_files_tell_whether_a_worker_is_alive_and_ready(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "health"
    folder.mkdir()
    (folder / "ready").touch()
    worker = Worker(database, tmp_path, health_folder=folder)
    assert [file.name for file in folder.iterdir()] == ["alive"], "an earlier worker left the other"
    worker.maintenance._report()
    assert (folder / "ready").exists()
    for remark, requested in (("the store is not mounted", "active"), (None, "draining")):
        worker.claims.readiness.remark = None
        worker.maintenance._report()
        worker.claims.readiness.remark = remark
        with database.write() as session:
            workers.request_state(session, "one", requested)  # type: ignore[arg-type]
        worker.maintenance._report()
        assert not (folder / "ready").exists()
    (folder / "alive").unlink()
    worker.is_answered = False
    worker.maintenance.start()
    wait_until(lambda: (folder / "alive").exists(), "the worker to go on without its database")
    worker.maintenance.close()


def test_health_folder_that_is_lost_later_ends_no_work(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "health"
    worker = Worker(database, tmp_path, health_folder=folder)
    shutil.rmtree(folder)
    worker.maintenance._report()
    assert (folder / "ready").exists(), "a folder that was removed is made again"
    shutil.rmtree(folder)
    folder.touch()
    with database.write() as session:
        workers.request_state(session, "one", "stopping")
    worker.maintenance.start()
    wait_until(lambda: worker.ended > 0, "the worker to hear that it is to stop")
    worker.maintenance.close()
    assert [said["action"] for said in list_said(caplog)] == ["report_health"]


def test_health_folder_that_cannot_be_written_is_refused(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.InvalidSpec, match=r"FINCH_HEALTH_FOLDER: cannot write to .*file.*Not a directory"):
        Worker(database, tmp_path, health_folder=tmp_path / "file" / "health")


def test_history_with_nothing_to_delete_is_left_alone_for_a_while(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    sweep = Worker(database, tmp_path, history_days=2.0).maintenance._sweep
    ended_days_ago(database, 3)
    sweep()
    assert kept(database) == set()
    ended_days_ago(database, 3)
    sweep()
    assert kept(database) == set(), "the last sweep may not have deleted all"
    sweep()
    old = ended_days_ago(database, 3)
    now += 299
    sweep()
    assert kept(database) == {old}
    now += 1
    sweep()
    assert kept(database) == set()


def test_sweep_queues_jobs_of_lost_workers_again_and_says_so(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    with caplog.at_level(logging.INFO):
        Worker(database, tmp_path, retry_seconds=0).maintenance._sweep()
    assert registry.get(database, job).state is JobState.QUEUED
    assert {"action": "expire", **identify(job), "state": "queued"} in list_said(caplog)


def test_sweep_never_ends_the_attempts_of_its_own_worker(database: Database, tmp_path: Path) -> None:
    for _ in range(2):
        registry.submit(database)
    own, lost = registry.claimed(database, lease=-1.0), registry.claimed(database, lease=-1.0)
    worker = Worker(database, tmp_path)
    worker.held = frozenset({own.id})
    worker.maintenance._sweep()
    assert registry.get(database, own) == own
    assert registry.get(database, lost).state is JobState.QUEUED


@pytest.mark.parametrize("pause", ["the machine slept", "the database did not answer"])
def test_sweep_after_a_pause_lets_other_workers_renew_their_leases_first(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str
) -> None:
    """The workers of a machine wake at once, as those of a database that is back do."""
    now = 1000.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    worker = Worker(database, tmp_path, heartbeat_seconds=5.0, sweep_seconds=15.0)
    look = worker.maintenance._look
    look(now)
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    look(now + 1)
    if pause == "the machine slept":
        now += 500
    else:
        worker.is_answered = False
        for _ in range(500):
            now += 1
            with contextlib.suppress(errors.Unavailable):
                look(now)
        worker.is_answered = True
    for second in range(5):
        look(now + second)
        assert registry.get(database, job) == job
    look(now + 5)
    assert registry.get(database, job).state is JobState.QUEUED


@pytest.mark.parametrize(("heartbeat", "lease"), [(0.2, 0.5), (0.5, 2.0), (20.0, 60.0)])
def test_looks_at_their_usual_distance_let_no_sweep_wait(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heartbeat: float, lease: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    worker = Worker(database, tmp_path, heartbeat_seconds=heartbeat, lease_seconds=lease, sweep_seconds=3.0)
    worker.maintenance._look(now)
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    for _ in range(3):
        now += 1.1  # the longest wait
        worker.maintenance._look(now)
    assert registry.get(database, job).state is JobState.QUEUED


@pytest.mark.parametrize(("pause", "is_swept"), [(55.0, True), (55.1, False)])
def test_pause_in_which_no_lease_ended_lets_no_sweep_wait(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float, is_swept: bool
) -> None:
    """A lease of 60 s that is renewed every 5 s goes on for 55 s after its last renewal at least."""
    now = 1000.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    worker = Worker(database, tmp_path, heartbeat_seconds=5.0, lease_seconds=60.0, sweep_seconds=15.0)
    worker.maintenance._look(now)
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    now += pause
    worker.maintenance._look(now)
    assert (registry.get(database, job).state is JobState.QUEUED) == is_swept


def test_worker_whose_database_got_another_schema_claims_nothing_and_ends_after_its_jobs(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(database, tmp_path)
    worker.maintenance._report()
    assert (worker.claims.is_draining, worker.maintenance.failure) == (False, None)
    with database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9000'"))
    worker.is_busy = True
    for _ in range(2):
        worker.maintenance._report()
    assert worker.claims.is_draining
    assert worker.ended == 0, "it finishes what it holds"
    assert [said["action"] for said in list_said(caplog)].count("drain") == 1
    with database.write() as session:
        assert "has the newer schema 9000" in (workers.get(session, "one").remark or "")
        workers.request_state(session, "one", "draining")
        workers.request_state(session, "one", "active")
    worker.is_busy = False
    worker.maintenance._report()
    assert worker.ended == 1
    assert worker.claims.is_draining


def test_sweep_forgets_workers_that_were_silent_for_a_month(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path)
    for name, days in (("old", 31), ("young", 29)):
        with database.write() as session:
            workers.register(
                session,
                values.WorkerDescription(id=name, hostname="box", pid=1, version="1", schema_revision="1", devices=()),
            )
            seen = types.later(-datetime.timedelta(days=days).total_seconds())
            session.execute(sa.update(workers.workers).where(workers.workers.c.id == name).values(last_seen=seen))
    worker.maintenance._sweep()
    with database.read() as session:
        assert {entry.id for entry in workers.find(session)} == {"one", "young"}


def test_requested_states_reach_the_worker(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path)
    worker.maintenance._report()
    assert (worker.claims.is_draining, worker.ended) == (False, 0)
    with database.write() as session:
        workers.request_state(session, "one", "draining")
    worker.is_busy = True
    worker.maintenance._report()
    assert (worker.claims.is_draining, worker.ended) == (True, 0), "a running job goes on"
    worker.is_busy = False
    worker.maintenance._report()
    assert worker.ended == 1
    with database.write() as session:
        workers.request_state(session, "one", "stopping")
    worker.is_busy = True
    worker.maintenance._report()
    assert worker.ended == 2, "a running job is handed back"


def test_worker_whose_name_another_took_ends(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path)
    with database.write() as session:
        workers.register(
            session,
            values.WorkerDescription(id="one", hostname="box", pid=2, version="1", schema_revision="1", devices=()),
            replaces=worker.entry.instance,
        )
    worker.maintenance._report()
    assert worker.ended == 1


def test_worker_on_demand_ends_when_it_was_idle_for_long_enough(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "elapsed", lambda: 1000.0)
    (tmp_path / "worker.lock").touch()
    worker = Worker(database, tmp_path, is_on_demand=True, idle_seconds=600.0)
    end_if_idle = worker.maintenance._end_if_idle
    end_if_idle(1600.0)
    worker.is_busy = True
    end_if_idle(1700.0)
    worker.is_busy = False
    end_if_idle(2300.0)
    assert (worker.ended, worker.maintenance.is_ending_idle) == (0, False)
    end_if_idle(2300.1)
    assert (worker.ended, worker.maintenance.is_ending_idle) == (1, True)


def test_worker_on_demand_that_pauses_waits_with_its_jobs(database: Database, tmp_path: Path) -> None:
    (tmp_path / "worker.lock").touch()
    worker = Worker(database, tmp_path, is_on_demand=True, idle_seconds=600.0)
    worker.claims.readiness.remark = "its store is away"
    job = registry.submit(database)
    worker.maintenance._end_if_idle(float("inf"))
    assert worker.ended == 0
    registry.cancel(database, job)
    worker.maintenance._busy_until = 0.0
    worker.maintenance._end_if_idle(601.0)
    assert worker.ended == 1, "no job waits for it"


def test_worker_on_demand_waits_for_a_job_that_is_to_start_later(database: Database, tmp_path: Path) -> None:
    """Nobody else would start it, since the client may have left."""
    (tmp_path / "worker.lock").touch()
    worker = Worker(database, tmp_path, is_on_demand=True, idle_seconds=600.0)
    registry.submit(database)
    registry.fail(database, registry.claimed(database), "it broke", values.RetryPolicy(base_delay=3600))
    worker.maintenance._end_if_idle(float("inf"))
    assert worker.ended == 0
    with database.write() as session:
        session.execute(sa.update(job_table).values(ring_at=None))
    worker.maintenance._busy_until = 0.0
    worker.maintenance._end_if_idle(601.0)
    assert worker.ended == 1, "a job that has its message and no slot waits for another worker"


def test_heartbeat_says_why_the_worker_claims_nothing(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path)
    worker.claims.readiness.remark = "its store is away: no answer from https://user:correct-horse@h/x"
    worker.maintenance._report()
    with database.read() as session:
        remark = workers.get(session, worker.entry.id).remark
    assert remark == "its store is away: no answer from https://***@h/x"


def test_worker_on_demand_ends_when_its_home_was_removed(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path, is_on_demand=True)
    worker.maintenance._end_if_idle(0.0)
    assert (worker.ended, worker.maintenance.is_ending_idle) == (1, False)


def test_permanent_worker_does_not_end_when_it_is_idle(database: Database, tmp_path: Path) -> None:
    worker = Worker(database, tmp_path, idle_seconds=1.0)
    worker.maintenance._end_if_idle(float("inf"))
    assert worker.ended == 0


def test_worker_that_stops_is_not_ready(database: Database, tmp_path: Path) -> None:
    ready = tmp_path / "health" / "ready"
    worker = Worker(database, tmp_path, health_folder=ready.parent)
    worker.maintenance._report()
    assert ready.exists()
    worker.claims.stopping.set()
    worker.maintenance._report()
    assert not ready.exists(), "it hands its jobs back"
    ready.touch()
    worker.maintenance.start()
    worker.maintenance.close()
    assert not ready.exists(), "it has ended"


def test_worker_that_hands_its_devices_over_says_so_and_claims_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(database, tmp_path, is_on_demand=True)
    worker.is_busy = worker.is_wanted = True
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            worker.maintenance._report()
    assert [said["action"] for said in list_said(caplog)] == ["hand_over"], "it is said once"
    assert (worker.claims.is_draining, worker.ended) == (True, 0)
    with database.read() as session:
        assert "hands its devices over" in (workers.get(session, "one").remark or "")
        assert workers.find_idle(session) == [], "no job is passed on to it"
    worker.is_wanted = False  # the other worker no longer waits
    worker.maintenance._report()
    assert not worker.claims.is_draining
    with database.read() as session:
        assert workers.get(session, "one").remark is None


def test_broker_that_cannot_start_keeps_no_lost_job_from_being_recovered(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(in_force: settings.Settings) -> None:
        raise errors.Unavailable("could not start the private Valkey")

    monkeypatch.setattr(home_broker, "ensure", fail)
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    with pytest.raises(errors.Unavailable, match="Valkey"):
        Worker(database, tmp_path, broker_url=None).maintenance._sweep()
    assert registry.get(database, job).state is JobState.QUEUED


def test_waiting_jobs_that_cannot_be_looked_at_keep_no_lost_job_from_being_recovered(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: Session, *, after: int) -> int:
        raise errors.Unavailable("a statement took too long")

    monkeypatch.setattr(stuck_jobs, "settle", fail)
    registry.submit(database)
    job = registry.claimed(database, lease=-1.0)
    with pytest.raises(errors.Unavailable, match="took too long"):
        Worker(database, tmp_path).maintenance._sweep()
    assert registry.get(database, job).state is JobState.QUEUED
