"""Celery pool of slots: threads that each watch over one child process."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from celery.concurrency import thread


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

    def register_with_event_loop(self, loop: Any) -> None:
        """Watch the pipe. Celery calls this again after every reconnection to the broker."""
        loop.add_reader(self._read_fd, self._clear_pipe)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in a thread, and wake the event loop when it has ended."""
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _: self._wake_loop())
        return result

    def _wake_loop(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop too
            os.write(self._write_fd, b"\0")

    def _clear_pipe(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
