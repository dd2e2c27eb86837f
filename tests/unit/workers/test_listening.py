"""Calls of listeners in processes of their own. The tests use a plugin that is installed for them."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from support import bells, registry, services
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import settings
from finch_hub.registry import jobs, listeners, tables, types
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import Job
from finch_hub.storage.stores import Stores, open_stores
from finch_hub.workers import listening
from finch_hub.workers.listening import ListenerCalls, Listening
from finch_hub.workers.supervision import clock


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin with a listener that works and one that does not, for this process and its children."""
    site = bells.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    paths = (str(site), *filter(None, [os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def stores(plugin: None, tmp_path: Path, postgresql_databases: services.Databases) -> Iterator[Stores]:
    url = postgresql_databases.new()
    home = tmp_path / "home"
    home.mkdir()
    (home / "trouble").write_text("")
    made = open_stores(settings.load(home=home, database_url=url, allow_insecure=True))
    with made.database.write() as session:
        Listening(made).register(session)
    yield made
    made.database.close()
    postgresql_databases.drop(url)


@pytest.fixture
def trouble(stores: Stores) -> Iterator[ListenerCalls]:
    """Calls of the listener that does not work, by this thread."""
    calls = ListenerCalls("trouble", stores)
    yield calls
    calls.close()


def cancel_one(database: Database) -> Job:
    job = registry.submit(database)
    with database.write() as session:
        return jobs.request_cancel(session, job.id)


def find(stores: Stores, name: str) -> tuple[int, int, str | None]:
    with stores.database.read() as session:
        (found,) = [each for each in listeners.find(session) if each.name == name]
    return found.waiting, found.skipped, found.trouble


def test_listener_hears_changes_while_another_one_hangs_and_its_process_ends_with_the_worker(stores: Stores) -> None:
    home = stores.settings.home
    (home / "trouble").write_text("hang")
    made = Listening(stores)
    made.start()
    try:
        job = cancel_one(stores.database)
        heard = [f"{job.id} queued", f"{job.id} cancelled"]
        wait_until(lambda: bells.read_lines(home / "journal") == heard, "the listener has heard both changes")
        wait_until(lambda: bool(bells.read_lines(home / "tried")), "the other listener is called")
        # Its row is written after the call.
        wait_until(lambda: find(stores, "journal") == (0, 0, None), "it is recorded that the listener heard them")
    finally:
        made.close()
    (tried,) = bells.read_lines(home / "tried")
    assert not Path(f"/proc/{tried.split()[1]}").exists()
    assert find(stores, "trouble") == (2, 0, None)  # the call was cut short, which is no failure
    with stores.database.read() as session:
        assert listeners.has_due(session, "trouble", "the next worker")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raise", "listener trouble of plugin finch-bells 1.0 failed: ValueError: no bell at redis://finch:***@perch"),
        ("leave", "its process ended: exit status 3"),
        ("hang", "it did not return within 3 s"),
    ],
)
def test_listener_that_fails_is_reported_and_called_again_later(
    stores: Stores,
    trouble: ListenerCalls,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    reason: str,
) -> None:
    home = stores.settings.home
    if what == "hang":
        registry.submit(stores.database)
        trouble.look()  # starts the process, which may take longer than the call below
        (home / "tried").unlink()
    (home / "trouble").write_text(what)
    job = registry.submit(stores.database)
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        if what == "hang":
            patch.setattr(listening, "CALL_SECONDS", 3.0)
        trouble.look()
    said = list_said(caplog)
    assert {"action": "listen", "listener": "trouble", "job_id": job.id, "state": "queued", "error": reason} in said
    traces = [str(fields["exception"]) for fields in said if fields["action"] == "call"]
    assert ["finch_bells.py" in trace for trace in traces] == ([True] if what == "raise" else [])
    assert find(stores, "trouble") == (1, 0, reason)
    (home / "trouble").write_text("")
    other = registry.submit(stores.database)
    trouble.look()
    assert find(stores, "trouble") == (1, 0, reason), "the call of the first job is still to be repeated"
    assert len(bells.read_lines(home / "tried")) == 2
    assert other.id != job.id


def test_lease_is_renewed_during_a_call(
    stores: Stores, trouble: ListenerCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_RENEW_SECONDS", 0.0)
    home = stores.settings.home
    (home / "trouble").write_text("hang")
    job = cancel_one(stores.database)
    calling = threading.Thread(target=trouble.look)
    calling.start()
    try:
        wait_until(lambda: bool(bells.read_lines(home / "tried")), "the listener is called")
        with stores.database.write() as session:
            session.execute(sa.update(tables.listeners).values(called_until=types.later(-1)))

        def is_renewed() -> bool:
            with stores.database.read() as session:
                return not listeners.has_due(session, "trouble", "another worker")

        wait_until(is_renewed, "the lease to be renewed")
        with stores.database.write() as session:  # as after a suspension
            session.execute(sa.update(tables.listeners).values(caller="another worker"))
        calling.join()
        assert bells.read_lines(home / "tried")[0].split()[0] == job.id
        assert find(stores, "trouble") == (2, 0, None), "whoever has the lease records the end"
    finally:
        trouble.stop()
        calling.join()


def test_turn_ends_before_the_lease_does() -> None:
    assert listening._TURN_SECONDS + listening.CALL_SECONDS < listeners.LEASE_SECONDS


def test_one_process_serves_many_calls(stores: Stores, trouble: ListenerCalls) -> None:
    for _ in range(3):
        registry.submit(stores.database)
    trouble.look()
    tried = [line.split() for line in bells.read_lines(stores.settings.home / "tried")]
    assert (len({job for job, _ in tried}), len({pid for _, pid in tried})) == (3, 1)


def test_process_of_a_listener_takes_no_device_and_logs_as_its_worker(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    in_force = stores.settings.model_copy(update={"log_format": "json", "log_level": "error"})
    calls = ListenerCalls("trouble", dataclasses.replace(stores, settings=in_force))
    registry.submit(stores.database)
    try:
        calls.look()
        (tried,) = bells.read_lines(stores.settings.home / "tried")
        environment = psutil.Process(int(tried.split()[1])).environ()
    finally:
        calls.close()
    names = ("CUDA_VISIBLE_DEVICES", "FINCH_LOG_FORMAT", "FINCH_LOG_LEVEL")
    assert [environment[name] for name in names] == ["", "json", "error"]


def test_listener_of_a_worker_that_lives_is_not_forgotten(
    stores: Stores, trouble: ListenerCalls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    week_ago = types.later(-8 * 86_400)
    registry.submit(stores.database)
    with stores.database.write() as session:
        session.execute(sa.update(tables.announcements).values(due_at=week_ago))
        session.execute(
            sa.update(tables.listeners).where(tables.listeners.c.name == "trouble").values(seen_at=week_ago)
        )
    trouble._keep_registered()
    assert find(stores, "trouble")[:2] == (1, 0), "it was registered a moment ago"
    now = clock.elapsed()
    monkeypatch.setattr(clock, "elapsed", lambda: now + 600.0)
    trouble._keep_registered()
    assert find(stores, "trouble")[:2] == (0, 1)
    with stores.database.write() as session:
        assert listeners.forget(session) == []
    assert [(said["action"], said["changes"]) for said in list_said(caplog)] == [("skip", 1)]


def test_worker_without_listeners_starts_nothing(tmp_path: Path) -> None:
    stores = open_stores(settings.load(home=tmp_path))
    made = Listening(stores)
    with stores.database.write() as session:
        made.register(session)
        assert listeners.find(session) == []
    made.start()
    assert (made._calls, made._orphan_cleanup) == ([], None)
    made.close()
    stores.database.close()
