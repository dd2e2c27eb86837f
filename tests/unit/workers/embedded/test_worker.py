from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fleet import wait_until

from finch_hub import errors, settings
from finch_hub.workers import __main__ as process
from finch_hub.workers.embedded import broker, code_version, home
from finch_hub.workers.embedded import worker as home_worker


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
