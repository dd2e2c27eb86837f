from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from finch_hub import settings
from finch_hub.workers.embedded import code_version, home
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
