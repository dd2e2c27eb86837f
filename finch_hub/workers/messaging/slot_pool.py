"""The pool of slots: threads of one light process, each of which watches over one child process at a time."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from celery.concurrency import thread


class SlotPool(thread.TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's thread pool, which also tells the event loop when a slot becomes free.

    With `worker_disable_prefetch` the loop fetches nothing while all slots are busy, and by itself it looks again only
    at its next timer, seconds later. A byte in a pipe that the loop watches lets it look at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched, self._bell = os.pipe()
        os.set_blocking(self._watched, False)
        os.set_blocking(self._bell, False)

    def register_with_event_loop(self, loop: Any) -> None:
        """Watch the pipe; called again after every reconnection to the broker."""
        loop.add_reader(self._watched, self._slot_became_free)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in a thread and ring when it has ended."""
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _: self._ring())
        return result

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of bytes that say the same
            os.write(self._bell, b"\0")

    def _slot_became_free(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._watched, 4096)
