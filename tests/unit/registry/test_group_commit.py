"""Threads that wait for SQLite's write lock are committed together, and each stands for itself."""

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


class Company:
    """A table, and threads that are made to wait for each other."""

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
        """Do the first, and while it is at it let the others come to wait, one by one."""
        entered, go = threading.Event(), threading.Event()

        def first(session: Session) -> None:
            entered.set()
            go.wait()
            works[0](session)

        futures = [self.pool.submit(self._write, first)]
        entered.wait()
        for number, work in enumerate(works[1:], start=1):
            futures.append(self.pool.submit(self._write, work))
            wait_until(lambda number=number: self.group.num_waiting == number, "it to wait")  # type: ignore[misc]
        go.set()
        return futures

    def _write(self, work: Work) -> None:
        with self.group.transaction() as session:
            work(session)

    def birds(self) -> set[str]:
        with self.engine.connect() as connection:
            return set(connection.scalars(sa.text("SELECT name FROM birds")))


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    made = Company(tmp_path / "birds.db")
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


def test_those_that_wait_are_committed_together(company: Company) -> None:
    for future in company.run(*(add(name) for name in "abcd")):
        future.result()
    assert company.birds() == set("abcd")
    assert company.commits == 1


def test_alone_each_is_committed_by_itself(company: Company) -> None:
    for name in "ab":
        company.run(add(name))[0].result()
    assert company.birds() == set("ab")
    assert company.commits == 2


@pytest.mark.parametrize("number", range(4))
def test_an_exception_undoes_its_own_writes_only(company: Company, number: int) -> None:
    futures = company.run(*(add_and_fail(name) if i == number else add(name) for i, name in enumerate("abcd")))
    for i, future in enumerate(futures):
        if i == number:
            with pytest.raises(LookupError):
                future.result()
        else:
            future.result()
    assert company.birds() == set("abcd") - {"abcd"[number]}
    company.run(add("e"))[0].result()
    assert "e" in company.birds()


def test_what_the_database_undid_is_told_to_all_whose_it_was(company: Company) -> None:
    def undo(session: Session) -> None:
        session.connection().exec_driver_sql("ROLLBACK")  # as SQLite does by itself when the disk is full
        raise OSError("full")

    first, full, last = company.run(add("a"), undo, add("c"))
    with pytest.raises(errors.Unavailable):
        first.result()
    with pytest.raises((OSError, errors.Unavailable, sa.exc.OperationalError)):
        full.result()
    last.result()
    assert company.birds() == {"c"}


def test_whoever_left_its_commit_to_one_that_gave_up_makes_it_itself(company: Company) -> None:
    company.group.num_waiting += 1  # it gave up, and is still counted
    written = company.pool.submit(company._write, add("finch"))
    wait_until(lambda: company.group._group is not None, "it to be left to the other")
    company.group.num_waiting -= 1
    written.result(timeout=30)
    assert company.birds() == {"finch"}
