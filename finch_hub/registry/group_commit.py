"""SQLite's one write lock, shared by the threads of a process: those that wait for it are committed together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors

_LOOK_SECONDS = 0.5  # until whoever left its commit to the next looks whether somebody came
_MOST = 16  # transactions of one commit; the first of them waits for all


class GroupCommits:
    """Runs transactions one after another, and those that were waiting for the lock anyway in one commit.

    A commit costs milliseconds for the disk, a transaction of ours well under one. So each leaves its commit to the
    next in line, if there is one, and waits for it: nobody goes on before what they wrote is on the disk. All but the
    first are in a savepoint, so an exception undoes its own transaction only. Without company nothing is different.

    Args:
        engine: of a SQLite database; its connections begin by taking the write lock.
        patience_seconds: after which waiting for the lock is given up.

    Attributes:
        waiting: threads that wait for their turn.

    """

    def __init__(self, engine: sa.Engine, *, patience_seconds: float) -> None:
        self._engine, self._patience = engine, patience_seconds
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self.waiting = 0
        self._group: _Group | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open one transaction; it is on the disk when the block has been left.

        Raises:
            Unavailable: another thread of this process holds the lock for too long.

        """
        self._take_turn()
        group = self._group
        try:
            if group is None:
                group = _Group(self._engine)
                with group.first() as session:
                    yield session
            else:
                with group.another() as session:
                    yield session
        except BaseException:
            self._go_on(group)
            raise
        if not self._go_on(group):
            while not group.ended.wait(_LOOK_SECONDS):
                # Whoever was next in line gave up waiting.
                if self._turn.acquire(blocking=False):
                    if self._group is group:
                        self._go_on(group)
                    else:
                        self._turn.release()
        if group.error is not None:
            raise group.error

    def _take_turn(self) -> None:
        with self._count:
            self.waiting += 1
        try:
            if not self._turn.acquire(timeout=self._patience):
                raise errors.Unavailable(f"the database is locked by another thread for over {self._patience:g} s")
        finally:
            with self._count:
                self.waiting -= 1

    def _go_on(self, group: _Group | None) -> bool:
        """Leave the commit to the next in line, or commit; return whether it was done."""
        try:
            if group is not None and not group.ended.is_set():
                with self._count:
                    company = self.waiting > 0
                if company and group.members < _MOST and group.sound:
                    self._group = group
                    return False
                group.commit()
            self._group = None
            return True
        finally:
            self._turn.release()


class _Group:
    def __init__(self, engine: sa.Engine) -> None:
        self._connection = engine.connect()
        try:
            self._transaction = self._connection.begin()
        except BaseException:
            self._connection.close()
            raise
        self.members = 1
        self.ended = threading.Event()
        self.error: BaseException | None = None

    @property
    def sound(self) -> bool:
        """Whether SQLite has not undone all of it by itself, as it does where the disk is full or broken."""
        return bool(self._connection.connection.in_transaction)

    @contextlib.contextmanager
    def first(self) -> Iterator[Session]:
        try:
            with Session(self._connection, join_transaction_mode="rollback_only", expire_on_commit=False) as session:
                yield session
                session.commit()
        except BaseException:
            self._end(self._transaction.rollback)
            raise

    @contextlib.contextmanager
    def another(self) -> Iterator[Session]:
        self.members += 1
        with (
            Session(self._connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def commit(self) -> None:
        try:
            if not self.sound:
                raise errors.Unavailable("the database undid a transaction that was committed together with another")
            self._end(self._transaction.commit)
        except BaseException as error:
            self.error = error
            self._end(self._connection.invalidate)

    def _end(self, how: Callable[[], None]) -> None:
        if not self.ended.is_set():
            try:
                how()
            finally:
                self.ended.set()
                self._connection.close()
