"""A client replaces the home's worker if the installed code or a plugin has changed since the worker started."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.plugins import install

from finch_hub import settings
from finch_hub.settings import Settings
from finch_hub.workers.embedded import code_version, home
from finch_hub.workers.embedded import worker as home_worker


class Running:
    """A process in the place of a home's worker, with its record and lock, and the commands that were started."""

    def __init__(self, loaded: Settings, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = loaded
        self.process = subprocess.Popen(["sleep", "600"])
        self.record = {"pid": self.process.pid, "started": psutil.Process(self.process.pid).create_time(), "code": code}
        self.write()
        self._started = loaded.home / "started"
        starter = loaded.home / "starter"
        script = f'#!/bin/sh\necho "$FINCH_HOME" "$@" > "{starter}.log"\nmv "{starter}.log" "{self._started}"\n'
        starter.write_text(script, encoding="utf-8")
        starter.chmod(0o700)
        monkeypatch.setattr("sys.executable", str(starter))

    def move_start(self) -> None:
        """Change the record as if another process had got the id of a worker that ended."""
        self.record["started"] -= 60
        self.write()

    def write(self) -> None:
        (self.settings.home / "worker.json").write_text(json.dumps(self.record), encoding="utf-8")

    def was_started(self, timeout: float) -> str:
        """Return what was started in the background within the timeout, empty if nothing was."""
        deadline = time.monotonic() + timeout
        while not self._started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._started.read_text(encoding="utf-8") if self._started.exists() else ""


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    loaded = settings.load(home=tmp_path)
    with home.lock(loaded, "worker"):
        made = Running(loaded, "the code of yesterday", monkeypatch)
        try:
            yield made
        finally:
            made.process.kill()
            made.process.wait()


def test_worker_with_the_same_code_goes_on(running: Running) -> None:
    home_worker.ensure(running.settings, code="the code of yesterday")
    assert running.was_started(0.2) == ""
    assert running.process.poll() is None


def test_worker_with_other_code_is_ended_and_replaced(running: Running) -> None:
    home_worker.ensure(running.settings, code="the code of today")
    assert running.process.wait(60) == -signal.SIGTERM, "it hands its jobs back"
    assert running.was_started(60) == f"{running.settings.home} -m finch_hub.workers\n"


@pytest.mark.parametrize("change", ["a file", "a plugin"])
def test_worker_is_replaced_when_a_file_of_the_package_or_a_plugin_changes(
    running: Running, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    package = running.settings.home / "package"
    package.mkdir()
    for name in ("errors.py", "loop.py"):
        (package / name).write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(code_version, "errors", SimpleNamespace(__file__=str(package / "errors.py")))
    plugin = install(running.settings.home / "plugins", "birds", "a = 1\n")
    monkeypatch.syspath_prepend(plugin.parent)
    running.record["code"] = code_version.current()
    running.write()
    home_worker.ensure(running.settings)
    assert running.process.poll() is None
    if change == "a file":
        (package / "loop.py").write_text("a = 23\n", encoding="utf-8")
    else:
        plugin.write_text("a = 23\n", encoding="utf-8")
    home_worker.ensure(running.settings)
    assert running.process.wait(60) == -signal.SIGTERM
    assert running.was_started(60)


def test_process_that_has_got_the_id_of_an_earlier_worker_is_not_ended(running: Running) -> None:
    running.move_start()
    home_worker.ensure(running.settings, code="the code of today")
    assert running.was_started(60)
    assert running.process.poll() is None
