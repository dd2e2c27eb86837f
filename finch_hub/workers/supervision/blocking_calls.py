"""Threads for calls that may hang, so that callers can stop waiting."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class BlockingCalls:
    """Pool of daemon threads for calls that may hang.

    Threads are kept, because starting a thread makes a job wait three times for the interpreter. No thread can be
    ended. A thread that hangs is abandoned, and as a daemon it does not keep the worker from ending.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []  # inboxes of idle threads

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Start a call in an idle thread or a new one."""
        future: Future[T] = Future()
        context = contextvars.copy_context()  # of the caller, so that logs have its fields

        def settle() -> None:
            try:
                future.set_result(context.run(call))
            except BaseException as error:
                future.set_exception(error)

        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name="blocking-calls", daemon=True).start()
        inbox.put(settle)
        return future

    def close(self) -> None:
        """End the idle threads."""
        while self._idle:
            self._idle.pop().put(None)

    def _serve(self, inbox: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (call := inbox.get()) is not None:
            call()
            self._idle.append(inbox)
