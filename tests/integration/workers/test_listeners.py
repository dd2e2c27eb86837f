"""Listeners of real workers: they hear what clients and other workers do, and outlive a worker that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from support import bells, registry
from support.fleet import Fleet, fleet, wait_until

from finch_hub.registry import jobs, tables, types


@pytest.fixture
def machines(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    with fleet(tmp_path, database_url) as made:
        bells.install(tmp_path / "bells")
        made.environment["PYTHONPATH"] += os.pathsep + str(tmp_path / "bells")
        yield made


@pytest.mark.slow
def test_listeners_hear_what_others_do_and_what_a_killed_worker_has_not_told(machines: Fleet) -> None:
    home = machines.settings.home
    home.mkdir(exist_ok=True)
    (home / "trouble").write_text("hang")
    worker = machines.start("one", finch_home=str(home))
    job = registry.submit(machines.database, labels=("nobody",))  # no worker runs it
    with machines.database.write() as session:
        jobs.request_cancel(session, job.id)
    heard = [f"{job.id} queued", f"{job.id} cancelled"]
    wait_until(lambda: bells.read_lines(home / "journal") == heard, "the listener has heard the client's changes")
    wait_until(lambda: len(bells.read_lines(home / "tried")) == 1, "the other listener hangs")
    (tried,) = bells.read_lines(home / "tried")
    worker.send(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not psutil.pid_exists(int(tried.split()[1])), "the process of the listener has ended, too")
    (home / "trouble").write_text("")
    with machines.database.write() as session:  # its lease would last a minute
        session.execute(sa.update(tables.listeners).values(called_until=types.later(-1)))
    machines.start("two", finch_home=str(home))
    wait_until(lambda: len(bells.read_lines(home / "tried")) == 3, "the second worker has told both changes")
    with machines.database.read() as session:
        left = session.scalars(sa.select(tables.announcements.c.listener)).all()
    assert set(left) <= {"trouble"}  # its rows are deleted a moment after the call
