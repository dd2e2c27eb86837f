"""A database that does not answer for longer than a lease, and comes back."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from support import services
from support.fleet import Fleet, fleet, wait_until
from support.tcp_proxy import TcpProxy

from finch_hub import Hub
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import JobState


@pytest.fixture
def server() -> Iterator[services.PostgresServer]:
    made = services.PostgresServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def workers(server: services.PostgresServer, tmp_path: Path) -> Iterator[Fleet]:
    databases = services.Databases(tmp_path, server.url())
    with fleet(tmp_path, databases.new()) as made:
        yield made


@pytest.mark.slow
def test_child_is_suspended_while_its_lease_is_in_doubt(workers: Fleet, server: services.PostgresServer) -> None:
    worker = workers.start()
    job = workers.probe("sleep", seconds=8)
    child = psutil.Process(workers.wait_begun(job))
    server.kill()
    wait_until(lambda: child.status() == "stopped", "the child to be suspended once the lease has ended")
    wait_until(lambda: "action=doubt_lease" in worker.text, "that to be logged")
    server.start()
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert all(attempt.outcome in ("lost", "succeeded") for attempt in workers.attempts(job))
    workers.check(job)


def test_child_is_suspended_while_its_supervisor_waits_for_the_database(tmp_path: Path) -> None:
    databases = services.Databases(tmp_path)
    with fleet(tmp_path, databases.new()) as workers:
        workers.start()
        job = workers.probe("sleep", seconds=3)
        child = psutil.Process(workers.wait_begun(job))
        with contextlib.closing(sqlite3.connect(str(workers.database.url.database), timeout=10.0)) as other:
            other.execute("BEGIN IMMEDIATE")
            # Less than SQLite lets a writer wait: the supervisor has events to write and is blocked until then.
            wait_until(lambda: child.status() == "stopped", "the child to be suspended once the lease has ended", 20)
            other.rollback()
        assert workers.wait(job).state is JobState.SUCCEEDED
        assert workers.runs_of(job)[0] == child.pid
        workers.check(job)


@pytest.mark.slow
def test_worker_that_is_stopped_within_a_transaction_loses_its_locks(workers: Fleet) -> None:
    once = workers.folder / "stopped-once"
    first = workers.start("first", finch_fault=f"supervisor.committing:stop:{once}")
    job = workers.probe()
    wait_until(once.exists, "the first worker to be about to commit")
    workers.start("second")
    assert workers.wait(job, timeout=90).state is JobState.SUCCEEDED  # the server ends idle transactions after 30 s
    first.send(signal.SIGCONT)
    wait_until(lambda: "action=lost" in first.text, "the first worker to see that it lost the job")
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["lost", "succeeded"]
    workers.check(job)


@pytest.mark.slow
def test_child_is_suspended_while_the_file_is_locked_for_longer_than_the_lease(tmp_path: Path) -> None:
    with fleet(tmp_path, services.Databases(tmp_path).new()) as workers:
        worker = workers.start()
        job = workers.probe("sleep", seconds=8)
        child = psutil.Process(workers.wait_begun(job))
        workers.wait_event(job, "exporting")  # or the attempt would wait for the lock itself, to store it
        with contextlib.closing(sqlite3.connect(str(workers.database.url.database))) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            wait_until(lambda: child.status() == "stopped", "the child to be suspended once the lease has ended")
            wait_until(lambda: "action=doubt_lease" in worker.text, "that to be logged")
        assert workers.wait(job).state is JobState.SUCCEEDED
        workers.check(job)


@pytest.mark.slow
def test_worker_of_a_frozen_database_ends_soon_after_its_grace(server: services.PostgresServer, tmp_path: Path) -> None:
    """Its threads would wait for answers one after the other, for longer than service managers do."""
    with fleet(tmp_path, services.Databases(tmp_path, server.url()).new(), grace_seconds=1.0) as workers:
        worker = workers.start()
        job = workers.probe("sleep", seconds=600)
        workers.wait_begun(job)
        for process in server.processes():
            process.suspend()
        worker.send(signal.SIGTERM)
        try:
            assert worker.wait() == 7, "something does not answer"
        finally:
            for process in server.processes():
                process.resume()
        assert "something did not answer in the grace" in worker.text
        workers.check_nothing_left()
        workers.cancel(job)
        workers.start("second")
        assert workers.wait(job).state is JobState.CANCELLED


@pytest.mark.slow
def test_worker_with_many_slots_takes_three_connections(workers: Fleet) -> None:
    url = sa.make_url(workers.settings.database).update_query_dict({"application_name": "finch-worker"})
    worker = workers.start(slots=6, finch_database_url=url.render_as_string(hide_password=False))
    submitted = [workers.probe("sleep", seconds=1) for _ in range(12)]
    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'finch-worker'")
    counts = []

    def have_ended() -> bool:
        with workers.database.read() as session:
            counts.append(session.scalar(count) or 0)
        return all(workers.job(job).state is JobState.SUCCEEDED for job in submitted)

    wait_until(have_ended, "all jobs to succeed")
    assert 1 < max(counts) <= 3
    worker.end()


@pytest.mark.slow
def test_job_goes_on_when_all_connections_of_its_worker_have_silently_died(
    workers: Fleet, server: services.PostgresServer
) -> None:
    url = sa.make_url(workers.settings.database).set(host="127.0.0.1", query={})
    with contextlib.closing(TcpProxy(server.folder / ".s.PGSQL.5432")) as proxy:
        through_proxy = url.set(port=proxy.port).render_as_string(hide_password=False)
        worker = workers.start(finch_database_url=through_proxy)
        job = workers.probe("sleep", seconds=4)
        child = psutil.Process(workers.wait_begun(job))
        proxy.forget_connections()
        wait_until(lambda: child.status() == "stopped", "the child to be suspended once the lease has ended")
        assert workers.wait(job).state is JobState.SUCCEEDED
        assert all(attempt.outcome in ("lost", "succeeded") for attempt in workers.attempts(job))
        workers.check(job)
        worker.end()


@pytest.mark.slow
def test_result_waits_for_the_database(workers: Fleet, server: services.PostgresServer) -> None:
    workers.start()
    job = workers.probe("sleep", seconds=1)
    workers.wait_begun(job)
    out = Path(workers.job(job).spec["out"])
    server.kill()
    wait_until(out.exists, "the child to finish meanwhile")
    server.start()
    assert workers.wait(job).state is JobState.SUCCEEDED
    workers.check(job)


@pytest.mark.slow
def test_events_are_followed_across_a_restart_of_database_and_broker(
    workers: Fleet, server: services.PostgresServer
) -> None:
    workers.start()
    job = workers.probe("sleep", seconds=3)
    workers.wait_begun(job)
    with Hub(workers.settings) as hub:
        seen: list[Event] = []

        def follow() -> None:
            for event in hub.events(job, follow=True):
                seen.append(event)

        follower = threading.Thread(target=follow)
        follower.start()
        wait_until(lambda: bool(seen), "the first event")
        server.kill()
        workers.broker.kill()
        time.sleep(4.0)  # while the client reaches neither
        server.start()
        workers.broker.start()
        follower.join(60.0)
        assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].data["state"] == "succeeded"
        assert list(hub.events(job, after=seen[1].seq)) == seen[2:]
    workers.check(job)
