"""Threads for what may hang, so that whoever asked for it can give up on it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Helpers:
    """Runs work in threads that are kept for more: starting one makes a job wait three times for the interpreter.

    No thread can be ended, so one that hangs is left behind; as a daemon it keeps no worker from ending.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []  # inboxes of threads with nothing to do

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Run it in a thread that is free, or a new one."""
        future: Future[T] = Future()

        def settle() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name="helper", daemon=True).start()
        inbox.put(settle)
        return future

    def close(self) -> None:
        """End the threads with nothing to do."""
        while self._idle:
            self._idle.pop().put(None)

    def _serve(self, inbox: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (work := inbox.get()) is not None:
            work()
            self._idle.append(inbox)
