"""Group commit: one commit for the transactions of threads that wait for SQLite's write lock."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors

_POLL_SECONDS = 0.5  # a thread that handed its commit on checks this often that a thread has taken it
_MAX_MEMBERS = 16  # transactions in one commit; the first of them waits for all


class GroupCommits:
    """Runner of transactions that commits waiting transactions together.

    A commit takes milliseconds, because it waits for the disk. A registry transaction takes less than one. So a thread
    leaves its commit to the next thread in line, and returns only when its writes are on the disk. All transactions of
    a group but the first run in a savepoint, so that an exception rolls back its own transaction only. A thread that
    has no other behind it commits at once.

    Args:
        engine: engine of a SQLite database, whose connections take the write lock when they begin.
        patience_seconds: longest wait for the lock.

    Attributes:
        num_waiting: threads that wait for their turn.
    """

    def __init__(self, engine: sa.Engine, *, patience_seconds: float) -> None:
        self._engine, self._patience_seconds = engine, patience_seconds
        self._turn = threading.Lock()
        self._counter_lock = threading.Lock()
        self.num_waiting = 0
        self._group: _Group | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open one transaction, which is on the disk when the block ends.

        Raises:
            Unavailable: another thread of this process held the lock too long.
        """
        self._take_turn()
        group = self._group
        try:
            if group is None:
                group = _Group(self._engine)
                with group.run_first() as session:
                    yield session
            else:
                with group.run_savepoint() as session:
                    yield session
        except BaseException:
            self._pass_turn(group)
            raise
        if not self._pass_turn(group):
            while not group.ended.wait(_POLL_SECONDS):
                # The next thread in line may have stopped waiting, so this one takes the turn back if it is free.
                if self._turn.acquire(blocking=False):
                    if self._group is group:
                        self._pass_turn(group)
                    else:
                        self._turn.release()
        if group.error is not None:
            raise group.error

    def _take_turn(self) -> None:
        with self._counter_lock:
            self.num_waiting += 1
        try:
            if not self._turn.acquire(timeout=self._patience_seconds):
                what = f"could not lock the database in {self._patience_seconds:g} s: another thread holds the lock"
                raise errors.Unavailable(what)
        finally:
            with self._counter_lock:
                self.num_waiting -= 1

    def _pass_turn(self, group: _Group | None) -> bool:
        """Leave the commit to the next thread in line, or commit. Return whether the group has ended."""
        try:
            if group is not None and not group.ended.is_set():
                with self._counter_lock:
                    has_successor = self.num_waiting > 0
                if has_successor and group.num_members < _MAX_MEMBERS and group.is_open:
                    self._group = group
                    return False
                group.commit()
            self._group = None
            return True
        finally:
            self._turn.release()


class _Group:
    """Transactions that share one connection and one commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self._connection = engine.connect()
        try:
            self._transaction = self._connection.begin()
        except BaseException:
            self._connection.close()
            raise
        self.num_members = 1
        self.ended = threading.Event()
        self.error: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether the transaction still exists. SQLite rolls it back by itself when the disk is full or broken."""
        return bool(self._connection.connection.in_transaction)

    @contextlib.contextmanager
    def run_first(self) -> Iterator[Session]:
        try:
            with Session(self._connection, join_transaction_mode="rollback_only", expire_on_commit=False) as session:
                yield session
                session.commit()
        except BaseException:
            self._end(self._transaction.rollback)
            raise

    @contextlib.contextmanager
    def run_savepoint(self) -> Iterator[Session]:
        self.num_members += 1
        with (
            Session(self._connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def commit(self) -> None:
        try:
            if not self.is_open:
                what = "could not commit: SQLite rolled back the transaction together with another thread's"
                raise errors.Unavailable(what)
            self._end(self._transaction.commit)
        except BaseException as error:
            self.error = error
            self._end(self._connection.invalidate)

    def _end(self, finish: Callable[[], None]) -> None:
        if not self.ended.is_set():
            try:
                finish()
            finally:
                self.ended.set()
                self._connection.close()
