"""`finch-hub worker`."""

from __future__ import annotations

import time

import pytest

from finch_hub.registry import values, workers
from finch_hub.registry.database import Database

from .conftest import Run, enter_worker


def test_workers_are_listed_drained_and_stopped(run: Run, database: Database) -> None:
    device = values.Device(kind="cpu", name="some cpu", memory_bytes=2**33, free_bytes=2**32)
    with database.write() as session:
        workers.register(
            session,
            values.WorkerDescription(
                id="box", hostname="box", pid=1, version="0", schema_revision="0001", devices=(device,), labels=("a",)
            ),
        )
    listed = run("worker", "list").out
    assert "some cpu (4.3 GB of 8.6 GB free)" in listed
    drained = run("worker", "drain", "box").out
    assert drained == "Worker box accepts no new jobs and stops after its current jobs\n"
    assert run("worker", "list", "--json").json[0]["state"] == "draining"
    stopping = run("worker", "stop", "box", "--no-wait")
    assert stopping.out == "Worker box puts its jobs back into the queue and stops\n"
    assert run("worker", "stop", "--no-wait").status == 2
    assert run("worker", "stop", "bax").status == 3
    assert run("worker", "stop").out == "No worker runs in this home\n"


def test_stop_waits_until_the_worker_has_stopped(run: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_worker(database)
    seen: list[str] = []

    def stop_meanwhile(seconds: float) -> None:
        with database.write() as session:
            seen.extend(worker.state for worker in workers.find(session))
            (instance,) = (worker.instance for worker in workers.find(session))
            workers.mark_stopped(session, "gpu-1", instance)

    monkeypatch.setattr(time, "sleep", stop_meanwhile)
    stopped = run("worker", "stop", "gpu-1")
    assert seen == ["stopping"]
    assert (stopped.status, stopped.out) == (0, "Stopped worker gpu-1\n")
    assert "Waiting until it has stopped" in stopped.err


def test_worker_start_with_invalid_names_is_refused(run: Run) -> None:
    refused = run("worker", "start", "--name", "a b/..", "--queue", "../x", "--label", "")
    assert refused.status == 2
    for option in ("--name: 'a b/..'", "--queue: '../x'", "--label: ''"):
        assert f"{option} is not a valid name" in refused.err


def test_health_exits_with_0_only_if_a_worker_runs_here(run: Run, database: Database) -> None:
    assert run("worker", "health")[:2] == (1, "no worker runs on this host\n")
    enter_worker(database)
    assert run("worker", "health")[:2] == (0, "gpu-1\n")
    assert run("worker", "health", "--json").json == {"workers": ["gpu-1"]}
