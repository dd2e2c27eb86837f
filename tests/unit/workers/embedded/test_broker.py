from __future__ import annotations

import os
from pathlib import Path

import pytest

from finch_hub import errors, settings
from finch_hub.workers.embedded import broker
from finch_hub.workers.messaging.app import make_app


def test_socket_of_a_deep_home_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    runtime = tmp_path / ("r" * 90)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    path = Path(broker.url(settings.load(home=deep)).removeprefix("redis+socket://"))
    assert len(os.fsencode(path)) <= 107
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_homes_have_different_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert len({broker.url(settings.load(home=tmp_path / name)) for name in "ab"}) == 2


def test_folder_that_other_users_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    loaded = settings.load(home=tmp_path / "home")
    folder = Path(broker.url(loaded).removeprefix("redis+socket://")).parent
    folder.chmod(0o755)
    with pytest.raises(errors.Unavailable, match="yours alone"):
        broker.url(loaded)
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(errors.Unavailable, match="yours alone"):
        broker.url(loaded)


def test_broker_ends_with_the_last_worker_that_is_connected(tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path)
    broker.ensure(loaded)
    try:
        other, client = make_app(broker.url(loaded), worker="other"), make_app(broker.url(loaded))
        with other.connection_for_write() as connection, client.connection_for_write() as submitting:
            assert connection.default_channel is not submitting.default_channel, "both are connected"
            broker.stop(loaded, worker="one")
            assert broker.answers(loaded), "another worker is connected"
            connection.close()
            broker.stop(loaded, worker="one")
            assert not broker.answers(loaded), "clients do not keep it"
    finally:
        broker.stop(loaded, worker="other")
