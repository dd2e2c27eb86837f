from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from finch_hub.workers.messaging.slot_pool import SlotPool


class Loop:
    """Event loop that remembers what it watches."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def is_woken(self, seconds: float) -> bool:
        return bool(select.select(list(self.readers), [], [], seconds)[0])


@pytest.fixture
def pool() -> Iterator[SlotPool]:
    made = SlotPool(limit=1)
    yield made
    made.on_stop()


def test_slot_that_becomes_free_wakes_the_event_loop(pool: SlotPool) -> None:
    loop, may_end = Loop(), threading.Event()
    pool.register_with_event_loop(loop)
    pool.register_with_event_loop(loop)  # as after a new connection to the broker
    ((fd, clear),) = loop.readers.items()
    pool.on_apply(lambda: may_end.wait(30), (), {}, callback=lambda result: None)
    assert not loop.is_woken(0.05), "the slot is busy"
    may_end.set()
    assert loop.is_woken(30)
    clear()
    assert not loop.is_woken(0)
    clear()  # an empty pipe is no error
    os.fstat(fd)


def test_full_pipe_keeps_no_task_from_ending(pool: SlotPool) -> None:
    loop = Loop()
    pool.register_with_event_loop(loop)
    for _ in range(100_000):
        pool._wake_loop()
    pool.on_apply(lambda: None, (), {}, callback=lambda result: None).f.result(30)
    assert loop.is_woken(0)
