from __future__ import annotations

import sys
import threading

import pytest

from finch_hub import settings
from finch_hub.workers.supervision.slots import Slots


@pytest.fixture
def frequent_switches() -> object:
    """Let threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_no_slot_is_lost_when_slots_are_taken_while_idle_children_are_dropped() -> None:
    slots = Slots(settings.load(), 2)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            with slots.take():
                pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2000):
        slots.drop_idle_children(older_than=1.0)
    ended.set()
    for thread in threads:
        thread.join(timeout=30)  # it would wait for a lost slot for ever
        assert not thread.is_alive()
    with slots.take(), slots.take():
        pass
    slots.close()
