from __future__ import annotations

import os
from pathlib import Path

import pytest

from finch_hub import errors, settings
from finch_hub.workers.embedded import broker as home_broker
from finch_hub.workers.embedded import code_version
from finch_hub.workers.embedded import worker as home_worker


def test_the_socket_of_a_deep_home_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    runtime = tmp_path / ("r" * 90)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    path = Path(home_broker.url(settings.load(home=deep)).removeprefix("redis+socket://"))
    assert len(os.fsencode(path)) <= 107
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_every_home_has_a_broker_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert len({home_broker.url(settings.load(home=tmp_path / name)) for name in "ab"}) == 2


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    loaded = settings.load(home=tmp_path / "home")
    folder = Path(home_broker.url(loaded).removeprefix("redis+socket://")).parent
    folder.chmod(0o755)
    with pytest.raises(errors.Unavailable, match="yours alone"):
        home_broker.url(loaded)
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(errors.Unavailable, match="yours alone"):
        home_broker.url(loaded)


def test_no_worker_runs_in_a_new_home(tmp_path: Path) -> None:
    assert home_worker.read_record(settings.load(home=tmp_path)) is None


def test_record_of_an_earlier_worker_is_ignored_while_nobody_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "current", lambda: "the code of today")
    loaded = settings.load(home=tmp_path)
    home_worker.write_record(loaded)
    assert home_worker.read_record(loaded) is None
    lock = home_worker.life_lock(loaded)
    with lock:
        found = home_worker.read_record(loaded)
    assert found is not None
    assert found["pid"] == os.getpid()
    assert found["code"] == "the code of today"
