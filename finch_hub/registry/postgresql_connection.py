"""A connection to PostgreSQL that does not wait for ever for an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg


class Cursor(psycopg.Cursor[Any]):
    """A cursor that never prepares what has no parameters, since that may be several statements in one text."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Execute a statement, or several without parameters."""
        if params is None:
            options["prepare"] = False
        return super().execute(query, params, **options)


class Connection(psycopg.Connection[Any]):
    """A connection of psycopg that closes itself if the server does not answer in time.

    The timeouts of TCP do not see a proxy that acknowledges packets and forwards none, and the timeouts of the server
    end only statements that reach it.

    Attributes:
        answer_seconds: longest wait for the answer to a statement.
    """

    answer_seconds = math.inf

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
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(operation)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:  # psycopg looks ten times a second if nothing comes
                    self.close()
                    raise psycopg.OperationalError(f"the server did not answer within {self.answer_seconds:g} s")
                wanted = operation.send(ready)
        except StopIteration as end:
            return end.value
