from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.fleet import wait_until

from finch_hub import Hub, errors, settings
from finch_hub.cli.main import main
from finch_hub.registry.database import Database
from finch_hub.workers import __main__ as process
from finch_hub.workers.embedded import broker, code_version, home
from finch_hub.workers.embedded import worker as home_worker
from finch_hub.workers.messaging.dispatcher import Dispatcher, FailedWorkerWarning
from finch_hub.workers.supervision import devices
from finch_hub.workers.supervision.device_locks import DeviceLocks


def test_no_worker_runs_in_a_new_home(tmp_path: Path) -> None:
    assert home_worker.read_record(settings.load(home=tmp_path)) is None


def test_record_of_an_earlier_worker_is_ignored_while_nobody_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "current", lambda: "the code of today")
    loaded = settings.load(home=tmp_path)
    home_worker.write_record(loaded)
    assert home_worker.read_record(loaded) is None
    with home.lock(loaded, "worker"):
        found = home_worker.read_record(loaded)
    assert found is not None
    assert found["pid"] == os.getpid()
    assert found["code"] == "the code of today"


def test_several_clients_that_stop_the_worker_send_one_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second signal the worker would end without handing its jobs back."""
    signals = tmp_path / "signals"
    code = f"""
import signal, time
from pathlib import Path
from finch_hub import settings
from finch_hub.workers.embedded import home, worker
loaded = settings.load(home={str(tmp_path)!r})
signals = Path({str(signals)!r})
def note(*_):
    with signals.open("a") as file:
        file.write("signal ")
signal.signal(signal.SIGTERM, note)
with home.lock(loaded, "worker"):
    worker.write_record(loaded)
    while not (signals.exists() and Path({str(tmp_path / "end")!r}).exists()):
        time.sleep(0.01)
"""
    monkeypatch.setattr(code_version, "current", lambda: "another code")
    monkeypatch.setattr(home, "detach", lambda *arguments: None)
    loaded = settings.load(home=tmp_path)
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        wait_until((tmp_path / "worker.json").exists, "the worker to start")
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match="did not end"):
                home_worker.stop(loaded, wait=0)
        home_worker.ensure(loaded)
        wait_until(signals.exists, "the signal")
        (tmp_path / "end").touch()
        running.wait()
    assert signals.read_text(encoding="utf-8") == "signal "


def test_no_worker_is_started_beside_one_that_a_person_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(home, "detach", lambda *arguments: started.append(arguments))
    loaded = settings.load(home=tmp_path)
    other = settings.load(home=tmp_path, database_url="sqlite:////elsewhere.db")
    locks = DeviceLocks(loaded, worker="foreground", is_on_demand=False)
    locks.take(devices.find_devices())
    home_worker.ensure(loaded)
    assert home_worker.find_failure(loaded) is None
    home_worker.ensure(other)
    assert "worker foreground (process" in (home_worker.find_failure(other) or "")
    assert not started
    locks.close()
    home_worker.ensure(loaded)
    assert len(started) == 1


def test_stop_ends_the_broker_that_a_killed_worker_left(tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path)
    assert not home_worker.stop(loaded)
    with home.lock(loaded, "worker"):
        broker.ensure(loaded)
    assert broker.answers(loaded)
    assert not home_worker.stop(loaded)
    wait_until(lambda: not broker.answers(loaded), "the broker to end")


def test_stop_ends_a_worker_that_was_started_a_moment_ago(tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path)
    home_worker.ensure(loaded)
    assert home_worker.read_record(loaded) is None  # its process has just begun
    assert home_worker.stop(loaded)
    assert home_worker.read_record(loaded) is None


def test_stop_does_not_wait_for_a_worker_that_was_started_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "detach", lambda *arguments: None)
    loaded = settings.load(home=tmp_path)
    home_worker.ensure(loaded)
    (mark,) = tmp_path.glob("*.starting")
    os.utime(mark, (time.time() - 20,) * 2)
    assert not home_worker.stop(loaded)


@pytest.mark.parametrize(("age", "starts"), [(10.0, False), (20.0, True), (-3600.0, True)])
def test_worker_that_was_started_a_moment_ago_is_not_started_again(
    age: float, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An age below zero comes from a clock that was set back."""
    started: list[Any] = []
    monkeypatch.setattr(home, "detach", lambda *arguments: started.append(arguments))
    loaded = settings.load(home=tmp_path)
    home_worker.ensure(loaded)
    (mark,) = tmp_path.glob("*.starting")
    os.utime(mark, (time.time() - age,) * 2)
    home_worker.ensure(loaded)
    assert len(started) == 1 + starts


def test_log_of_the_homes_worker_has_at_most_ten_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[logging.Handler] = []
    worker = SimpleNamespace(run=lambda: 0, has_overlooked_work=lambda: False)
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))
    monkeypatch.setattr(process, "set_up_logging", lambda settings, handler: handlers.append(handler))
    monkeypatch.setattr(process, "Worker", lambda settings, **_: worker)
    (tmp_path / "logs").mkdir()
    assert process.main() == 0
    (handler,) = handlers
    for number in range(300):
        handler.emit(logging.LogRecord("finch_hub", logging.INFO, "", 0, f"{number} " + "x" * 100_000, None, None))
    handler.close()
    files = list((tmp_path / "logs").iterdir())
    assert sum(file.stat().st_size for file in files) <= 10 * 2**20
    assert any("299 x" in file.read_text(encoding="utf-8") for file in files)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The logs of workers that were started, each of which ends at once with an error."""
    logs: list[Path] = []

    def fail(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        logs.append(log)
        with log.open("a") as output:
            output.write(f"Traceback:\n  line\nImportError: no module named celery ({len(logs)})\n")

    monkeypatch.setattr(home, "detach", fail)
    monkeypatch.setattr(code_version, "current", lambda: "this code")
    return logs


def pass_time(folder: Path, seconds: float) -> None:
    started = folder / "worker.starting"
    then = started.stat().st_mtime - seconds
    os.utime(started, (then, then))


def test_worker_that_cannot_start_is_started_less_and_less_often(tmp_path: Path, starts: list[Path]) -> None:
    loaded = settings.load(home=tmp_path)
    pauses = []
    for _ in range(8):
        home_worker.ensure(loaded)
        started, pause = len(starts), 0
        while len(starts) == started:
            pass_time(tmp_path, 5)
            pause += 5
            home_worker.ensure(loaded)
        pauses.append(pause)
    assert pauses == [15, 30, 60, 120, 240, 300, 300, 300]


def test_reason_of_a_start_that_failed_is_kept_until_the_worker_is_ready(tmp_path: Path, starts: list[Path]) -> None:
    loaded = settings.load(home=tmp_path)
    assert home_worker.find_failure(loaded) is None
    home_worker.ensure(loaded)
    assert home_worker.find_failure(loaded) is None, "it may be slow"
    pass_time(tmp_path, 16)
    reason = f"ImportError: no module named celery (1) (see {starts[0]})"
    assert home_worker.find_failure(loaded) == reason
    home_worker.ensure(loaded)
    assert len(starts) == 2
    assert home_worker.find_failure(loaded) == reason, "while it starts again"
    pass_time(tmp_path, 16)
    assert home_worker.find_failure(loaded) == reason.replace("(1)", "(2)")
    home_worker.note_ready(loaded)
    assert home_worker.find_failure(loaded) is None


def test_stop_lets_a_worker_that_could_not_start_be_started_at_once(tmp_path: Path, starts: list[Path]) -> None:
    loaded = settings.load(home=tmp_path)
    for _ in range(3):
        home_worker.ensure(loaded)
        pass_time(tmp_path, 1000)
    count = len(starts)
    home_worker.stop(loaded)
    home_worker.ensure(loaded)
    assert len(starts) == count + 1
    assert home_worker.find_failure(loaded) is None


def test_start_of_an_earlier_version_has_no_reason(tmp_path: Path, starts: list[Path]) -> None:
    loaded = settings.load(home=tmp_path)
    (tmp_path / "worker.starting").touch()
    pass_time(tmp_path, 16)
    assert home_worker.find_failure(loaded) == f"it ended without a word (see {tmp_path}/logs/worker.log)"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('level=error action=start error="no server \\"x\\" is installed"', 'no server "x" is installed'),
        ('{"level": "error", "action": "start", "error": "no server"}', "no server"),
        (
            r'level=critical action=crash exception="Traceback:\n  a.py\nImportError: no celery"',
            "ImportError: no celery",
        ),
        ("ImportError: no celery = 1", "ImportError: no celery = 1"),
        ("level=info action=start", "level=info action=start"),
    ],
)
def test_reason_of_a_failed_start_is_the_error_of_the_last_line(
    line: str, reason: str, tmp_path: Path, starts: list[Path]
) -> None:
    loaded = settings.load(home=tmp_path)
    home_worker.ensure(loaded)
    pass_time(tmp_path, 16)
    with (tmp_path / "logs" / "worker.log").open("a") as log:
        log.write(f"level=info action=look\n{line}\n")
    assert home_worker.find_failure(loaded) == f"{reason} (see {tmp_path}/logs/worker.log)"


def test_worker_with_a_broken_library_says_why_it_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken" / "celery").mkdir(parents=True)
    (tmp_path / "broken" / "celery" / "__init__.py").write_text("raise ImportError('celery is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    loaded = settings.load()
    with contextlib.closing(Database(loaded.database)) as database:
        loaded.home.mkdir()
        database.upgrade()
        job = registry.submit(database)
        dispatcher = Dispatcher(loaded, database)
        dispatcher.ensure_worker()
        log = loaded.home / "logs" / "worker.log"
        wait_until(lambda: "celery is broken" in log.read_text(), "the worker to fail")
        pass_time(loaded.home, 16)
        with pytest.warns(FailedWorkerWarning, match="could not start.*ImportError: celery is broken"):
            dispatcher.ensure_worker()
        dispatcher.ensure_worker()  # not told again
    with Hub(loaded) as hub:
        assert "celery is broken" in hub.jobs.get(job.id).obstacles()["the worker of this home"][0]
    assert main(["doctor", "--fast", "--json"]) == 7
    findings = {finding["about"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "celery is broken" in findings["workers"]["advice"]
