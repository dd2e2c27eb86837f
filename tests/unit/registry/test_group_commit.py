from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session
from support.fleet import wait_until

from finch_hub import errors
from finch_hub.registry.group_commit import GroupCommits

Work = Callable[[Session], None]


class GroupOfThreads:
    """A table, and threads that wait for each other to write to it."""

    def __init__(self, file: Path) -> None:
        self.engine = sa.create_engine(f"sqlite:///{file}")
        event.listen(self.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE birds (name TEXT)")
        self.commits = 0
        event.listen(self.engine, "commit", self._count)
        self.group = GroupCommits(self.engine, patience_seconds=30)
        self.pool = ThreadPoolExecutor(8)

    def _count(self, _: sa.Connection) -> None:
        self.commits += 1

    def run(self, *works: Work) -> list[Future[None]]:
        """Run the first while the others begin to wait, one after another."""
        entered, go = threading.Event(), threading.Event()

        def first(session: Session) -> None:
            entered.set()
            go.wait()
            works[0](session)

        futures = [self.pool.submit(self._write, first)]
        entered.wait()
        for number, work in enumerate(works[1:], start=1):
            futures.append(self.pool.submit(self._write, work))
            wait_until(lambda number=number: self.group.num_waiting == number, "the thread to wait")  # type: ignore[misc]
        go.set()
        return futures

    def _write(self, work: Work) -> None:
        with self.group.transaction() as session:
            work(session)

    def birds(self) -> set[str]:
        with self.engine.connect() as connection:
            return set(connection.scalars(sa.text("SELECT name FROM birds")))


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[GroupOfThreads]:
    made = GroupOfThreads(tmp_path / "birds.db")
    yield made
    made.pool.shutdown()
    made.engine.dispose()


def add(name: str) -> Work:
    return lambda session: (session.execute(sa.text("INSERT INTO birds VALUES (:name)"), {"name": name}), None)[1]


def add_and_fail(name: str) -> Work:
    def work(session: Session) -> None:
        add(name)(session)
        raise LookupError(name)

    return work


def test_waiting_transactions_share_one_commit(threads: GroupOfThreads) -> None:
    for future in threads.run(*(add(name) for name in "abcd")):
        future.result()
    assert threads.birds() == set("abcd")
    assert threads.commits == 1


def test_transaction_without_successor_commits_at_once(threads: GroupOfThreads) -> None:
    for name in "ab":
        threads.run(add(name))[0].result()
    assert threads.birds() == set("ab")
    assert threads.commits == 2


@pytest.mark.parametrize("number", range(4))
def test_exception_rolls_back_its_own_transaction_only(threads: GroupOfThreads, number: int) -> None:
    futures = threads.run(*(add_and_fail(name) if i == number else add(name) for i, name in enumerate("abcd")))
    for i, future in enumerate(futures):
        if i == number:
            with pytest.raises(LookupError):
                future.result()
        else:
            future.result()
    assert threads.birds() == set("abcd") - {"abcd"[number]}
    threads.run(add("e"))[0].result()
    assert "e" in threads.birds()


def test_rollback_by_sqlite_raises_in_all_members_of_the_group(threads: GroupOfThreads) -> None:
    entered, go = threading.Event(), threading.Event()

    def undo(session: Session) -> None:
        entered.set()
        go.wait()
        session.connection().exec_driver_sql("ROLLBACK")  # as SQLite does when the disk is full
        raise OSError("full")

    first, full = threads.run(add("a"), undo)
    entered.wait()
    last = threads.pool.submit(threads._write, add("c"))  # after the others, since a lock may wake any waiter first
    wait_until(lambda: threads.group.num_waiting == 1, "the last thread to wait")
    go.set()
    with pytest.raises(errors.Unavailable):
        first.result()
    with pytest.raises((OSError, errors.Unavailable, sa.exc.OperationalError)):
        full.result()
    last.result()
    assert threads.birds() == {"c"}


def test_commit_left_to_a_thread_that_gave_up_is_made(threads: GroupOfThreads) -> None:
    threads.group.num_waiting += 1  # a thread that has stopped waiting, but is still counted
    written = threads.pool.submit(threads._write, add("finch"))
    wait_until(lambda: threads.group._group is not None, "the commit to be left to the other thread")
    threads.group.num_waiting -= 1
    written.result(timeout=30)
    assert threads.birds() == {"finch"}
