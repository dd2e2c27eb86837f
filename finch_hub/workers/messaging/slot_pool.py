"""Celery pool of slots: threads that each watch over one child process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from celery.concurrency import thread
from celery.worker import state

log = logging.getLogger(__name__)


class SlotPool(thread.TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's thread pool, which also wakes the event loop when a slot becomes free.

    With `worker_disable_prefetch` the loop fetches no message while all slots are busy. By itself it would look again
    at its next timer, seconds later. A byte in a pipe makes it look at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._num_looks = 0
        self._lock = threading.Lock()

    @property
    def num_processes(self) -> int:
        """Number of slots for messages. Celery fetches no message while as many messages are worked on."""
        return int(self.limit - self._num_looks)

    def look(self, function: Callable[[], object]) -> None:
        """Run a function in each slot that is idle, as a message would."""
        with self._lock:
            num_idle = max(0, self.num_processes - len(state.reserved_requests))
            self._num_looks += num_idle
        for _ in range(num_idle):
            try:
                self.executor.submit(self._look, function)
            except RuntimeError:  # the pool has ended
                return

    def register_with_event_loop(self, loop: Any) -> None:
        """Watch the pipe. Celery calls this again after every reconnection to the broker."""
        loop.add_reader(self._read_fd, self._clear_pipe)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in a thread, and wake the event loop when it has ended."""
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _: self._wake_loop())
        return result

    def _look(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception:
            log.exception("look")
        finally:
            with self._lock:
                self._num_looks -= 1
            self._wake_loop()

    def _wake_loop(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop too
            os.write(self._write_fd, b"\0")

    def _clear_pipe(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
