"""Metrics of a worker: what is exported, by port and file, and what a port in use or a silent database does."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import registry
from support.fleet import Broker, wait_until
from support.logs import list_said

from finch_hub import errors, settings
from finch_hub.registry.database import Database
from finch_hub.storage.stores import Stores
from finch_hub.workers.metrics import deployment
from finch_hub.workers.metrics import exporter as exporter_module
from finch_hub.workers.metrics.exporter import MetricsExporter
from finch_hub.workers.supervision import instruments

PAGE = Path(__file__).parents[4] / "docs" / "operations.md"


@pytest.fixture
def port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        found: int = free.getsockname()[1]
    return found


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


@pytest.fixture
def start(
    database: Database, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., MetricsExporter]]:
    monkeypatch.setattr(deployment, "MEASURE_SECONDS", 0.05)
    started: list[MetricsExporter] = []

    def start(worker: str = "w1", **changes: Any) -> MetricsExporter:
        loaded = settings.load(home=tmp_path, broker_url=broker.url, **changes)
        made: Any = Stores(settings=loaded, database=database, artifacts=None, catalog=None)  # type: ignore[arg-type]
        started.append(MetricsExporter(made, worker=worker))
        started[-1].start()
        return started[-1]

    yield start
    for exporter in started:
        exporter.close()


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def read(text: str) -> dict[str, float]:
    """Return the samples of a text, by name and labels except `worker`, which each has."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("worker") == "w1"
            found[sample.name + "".join(f" {key}={value}" for key, value in sorted(labels.items()))] = sample.value
    return found


def wait_for(port: int, name: str) -> dict[str, float]:
    def is_served() -> bool:
        with contextlib.suppress(OSError):
            return name in fetch(port)
        return False

    wait_until(is_served, name)
    return read(fetch(port))


def test_port_serves_what_worker_and_deployment_do(
    start: Callable[..., MetricsExporter], database: Database, port: int
) -> None:
    registry.submit(database)
    registry.claimed(database, lease=-5.0)
    registry.submit(database, priority=3)
    registry.submit(database, depends_on=(registry.submit(database).id,))
    instruments.ATTEMPTS_STARTED.labels("train").inc(0)
    ended = instruments.ATTEMPTS_ENDED.labels("train", "failed")._value.get()
    instruments.count_end("train", "failed", 42.0)
    start(metrics_port=port)
    served = wait_for(port, "finch_jobs")
    assert {name: served[name] for name in served if name.startswith(("finch_jobs", "finch_queued", "finch_lost"))} == {
        "finch_jobs state=queued": 2,
        "finch_jobs state=waiting": 1,
        "finch_jobs state=running": 1,
        "finch_queued_jobs priority=high queue=default": 1,
        "finch_queued_jobs priority=normal queue=default": 1,
        "finch_lost_jobs": 1,
    }
    assert 0 <= served["finch_oldest_queued_job_seconds"] < 600
    assert served["finch_attempts_ended_total kind=train outcome=failed"] == ended + 1
    assert served["finch_attempt_seconds_bucket kind=train le=60.0"] >= 1
    assert served["finch_last_failure_timestamp_seconds"] == pytest.approx(time.time(), abs=600)
    assert (served["finch_database_up"], served["finch_broker_up"]) == (1, 1)
    assert served["finch_broker_memory_bytes"] > 0
    assert served["finch_broker_evicted_keys_total"] == 0
    assert served["finch_disk_free_bytes place=home"] > 0
    assert not [name for name in served if "_created" in name]


def test_page_lists_what_is_exported(start: Callable[..., MetricsExporter], port: int) -> None:
    start(metrics_port=port)
    wait_for(port, "finch_jobs")
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", fetch(port), re.MULTILINE)
    section = PAGE.read_text(encoding="utf-8").partition("## Metrics")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(kinds)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds)


def test_file_is_whole_at_any_time_and_removed_at_the_end(
    start: Callable[..., MetricsExporter], tmp_path: Path
) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    old, recent = folder / "finch-dead.prom", folder / "finch-living.prom.7.8"
    for file in (old, recent, folder / "other.prom"):
        file.touch()
    os.utime(old, (0, 0))
    os.utime(folder / "other.prom", (0, 0))
    exporter = start(metrics_folder=folder)
    file = folder / "finch-w1.prom"
    wait_until(file.exists, "the file")
    for _ in range(50):
        assert read(file.read_text())["finch_database_up"] == 1
    wait_until(lambda: not old.exists(), "the file of a dead worker to be removed")
    exporter.close()
    assert {path.name for path in folder.iterdir()} == {recent.name, "other.prom"}


def test_port_in_use_stops_nothing_and_is_taken_over_later(
    start: Callable[..., MetricsExporter], port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", port))):
        start(metrics_port=port, metrics_folder=tmp_path)
        wait_until((tmp_path / "finch-w1.prom").exists, "the file")
        wait_until(lambda: any(said["action"] == "serve_metrics" for said in list_said(caplog)), "the log")
    wait_for(port, "finch_jobs")
    troubles = [said for said in list_said(caplog) if said["action"] == "serve_metrics" and "error" in said]
    assert len(troubles) == 1, "it is said once"


def test_port_is_on_loopback_and_not_inherited(start: Callable[..., MetricsExporter], port: int) -> None:
    exporter = start(metrics_port=port)
    wait_for(port, "finch_jobs")
    assert exporter._server is not None
    assert exporter._server.server_address[0] == "127.0.0.1"
    assert not exporter._server.socket.get_inheritable()


def test_what_does_not_answer_is_down_and_the_rest_is_served(
    start: Callable[..., MetricsExporter],
    database: Database,
    broker: Broker,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(metrics_port=port)
    assert wait_for(port, "finch_jobs")["finch_database_up"] == 1
    broker.kill()

    @contextlib.contextmanager
    def read_nothing() -> Iterator[Any]:
        raise errors.Unavailable("the database does not answer")
        yield

    monkeypatch.setattr(database, "read", read_nothing)
    wait_until(lambda: read(fetch(port)).get("finch_database_up") == 0, "the database to be down")
    wait_until(lambda: read(fetch(port)).get("finch_broker_up") == 0, "the broker to be down")
    served = read(fetch(port))
    assert not {"finch_lost_jobs", "finch_broker_memory_bytes"} & served.keys(), "nothing is known of them"
    assert served["finch_disk_free_bytes place=home"] > 0


def test_nothing_is_exported_without_settings(start: Callable[..., MetricsExporter]) -> None:
    exporter = start()
    assert not exporter._thread.is_alive()


def test_silent_clients_leave_no_threads_behind(
    start: Callable[..., MetricsExporter], port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter_module._Request, "timeout", 0.05)
    start(metrics_port=port)
    wait_for(port, "finch_jobs")
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as silent:
        silent.settimeout(30)
        assert silent.recv(1) == b"", "the worker closes the connection"
    assert "finch_jobs" in fetch(port)
    assert capfd.readouterr().err == ""
