from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest
from celery.worker import state

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


def test_idle_slots_look_and_take_no_message_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    pool, loop = SlotPool(limit=3), Loop()
    pool.register_with_event_loop(loop)
    may_end, request = threading.Event(), Request()
    begun = threading.Semaphore(0)

    def look() -> None:
        begun.release()
        may_end.wait(30)
        raise ZeroDivisionError("a defect")

    try:
        state.reserved_requests.add(request)  # a message keeps one slot busy
        pool.look(look)
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        assert pool.num_processes == 1, "which that message has"
        pool.look(look)
        assert not begun.acquire(timeout=0.05), "no slot is idle"
        may_end.set()
        assert loop.is_woken(30), "the loop looks whether it may fetch messages again"
    finally:
        may_end.set()
        state.reserved_requests.discard(request)
        pool.on_stop()
    assert pool.num_processes == 3
    assert "a defect" in caplog.text
    pool.look(look)  # a pool that has ended does nothing
    assert not begun.acquire(timeout=0.05)


class Request:
    """A message that was fetched."""
