"""A connection to PostgreSQL that does not wait for ever for an answer."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Generator
from typing import Any, Self

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader

_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}  # by psycopg's flags
_FLAGS = {events: flags for flags, events in _EVENTS.items()}
_POLL_MILLISECONDS = 100


class Cursor(psycopg.Cursor[Any]):
    """A cursor that never prepares what has no parameters, since that may be several statements in one text."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Execute a statement, or several without parameters."""
        if params is None:
            options["prepare"] = False
        return super().execute(query, params, **options)


class _TimeLoader(Loader):
    """Loader of times. One that Python has not, such as infinity, stays a text, as a damaged one of SQLite does."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        usual = psycopg.adapters.get_loader(oid, psycopg.pq.Format.TEXT)
        if usual is None:
            raise AssertionError("psycopg reads times")
        self._usual = usual(oid, context)

    def load(self, data: Buffer) -> Any:
        """Return the time."""
        try:
            return self._usual.load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class Connection(psycopg.Connection[Any]):
    """A connection of psycopg that closes itself if the server does not answer in time.

    The timeouts of TCP do not see a proxy that acknowledges packets and forwards none, and the timeouts of the server
    end only statements that reach it.

    Attributes:
        answer_seconds: longest wait for the answer to a statement.
    """

    answer_seconds = math.inf
    _poller: select.poll | None = None

    @classmethod
    def connect(cls, *arguments: Any, **options: Any) -> Self:
        """Return a connection that is open."""
        connection = super().connect(*arguments, **options)
        connection.adapters.register_loader("timestamptz", _TimeLoader)
        return connection

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """Wait for the end of an operation. psycopg waits nowhere else once a connection is open.

        Raises:
            OperationalError: the server did not answer in time.
        """
        return super().wait(self._limit(gen), *arguments, **options)

    def answers(self, *, within_seconds: float) -> bool:
        """Return whether the server answers an empty question."""
        usual, self.answer_seconds = self.answer_seconds, within_seconds
        try:
            self.execute("SELECT 1")
        except psycopg.Error:
            return False
        finally:
            self.answer_seconds = usual
        return True

    def _limit(self, operation: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Return an operation that waits for the socket itself, so that psycopg never waits."""
        yield from ()  # makes this the generator that psycopg expects
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(operation)
            while True:
                if ready := self._poll(wanted):
                    wanted = operation.send(ready)
                elif time.monotonic() > deadline:
                    self.close()
                    raise psycopg.OperationalError(f"the server did not answer within {self.answer_seconds:g} s")
        except StopIteration as end:
            return end.value

    def _poll(self, wanted: int) -> int:
        """Wait a moment until the socket can be read or written, as flags, and return what it can."""
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(self.pgconn.socket)
        self._poller.modify(self.pgconn.socket, _EVENTS[wanted])
        for _, events in self._poller.poll(_POLL_MILLISECONDS):
            return _FLAGS.get(events, wanted)  # psycopg finds out that a connection is broken
        return 0
