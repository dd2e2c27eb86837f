from __future__ import annotations

import sys
import threading
from typing import Literal

import pytest
from support.children import FakeChild

from finch_hub import settings
from finch_hub.workers.supervision import clock, devices
from finch_hub.workers.supervision import slots as module
from finch_hub.workers.supervision.devices import Device
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


def device(kind: Literal["cpu", "cuda"], index: int, memory: int) -> Device:
    return Device(kind=kind, index=index, name=f"{kind} {index}", memory_bytes=memory, free_bytes=memory // 2, parts=())


def shares(found: tuple[Device, ...], count: int | None, monkeypatch: pytest.MonkeyPatch, **changes: int) -> list[int]:
    monkeypatch.setattr(devices, "find_devices", lambda: found)
    slots = Slots(settings.load(**changes), count)
    made = [slot.share for slot in slots]
    assert [reported.memory_bytes for reported in slots.refresh_devices()] == made
    slots.close()
    return made


def test_slots_of_a_device_have_equal_shares_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (device("cuda", 0, 24), device("cuda", 1, 80))
    assert shares(cards, None, monkeypatch) == [24, 80]
    assert shares(cards, 3, monkeypatch) == [12, 80, 12]
    cpu = (device("cpu", 0, 1000),)
    assert shares(cpu, None, monkeypatch) == [900], "a tenth is left for the system"
    assert shares(cpu, 2, monkeypatch) == [450, 450]
    assert shares(cpu, 2, monkeypatch, memory_bytes=300) == [300, 300]


def test_idle_child_is_ended_and_one_in_use_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock, "elapsed", lambda: now)
    slots = Slots(settings.load(), 2)
    idle, used = FakeChild(), FakeChild()
    first, second = slots
    first.keep_child(idle)  # type: ignore[arg-type]
    second.keep_child(used)  # type: ignore[arg-type]
    with slots.take() as taken:
        assert taken is second
        now = 220.0
        slots.drop_idle_children(older_than=120.0)
        assert (first.child, second.child) == (idle, used), "120 s are not more than 120 s"
        now = 221.0
        slots.drop_idle_children(older_than=120.0)
    assert (first.child, second.child) == (None, used)
    assert (idle.calls, used.calls) == (["end"], [])
    slots.close()


def test_child_is_taken_warm_and_a_dead_one_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, str]] = []
    new = FakeChild()

    def start(environment: dict[str, str], **_: object) -> FakeChild:
        made.append(environment)
        return new

    monkeypatch.setattr(module, "Child", start)
    loaded = settings.load(home="/home", log_format="json")
    slots = Slots(loaded, 1)
    (slot,) = slots
    warm, dead = FakeChild(), FakeChild()
    slot.keep_child(warm)  # type: ignore[arg-type]
    assert slot.take_child(loaded) is warm
    assert slot.child is None
    dead.die()
    slot.keep_child(dead)  # type: ignore[arg-type]
    assert slot.take_child(loaded) is new
    assert dead.calls == ["kill"]
    given = {"FINCH_LOG_FORMAT": "json", "FINCH_LOG_LEVEL": "info", "FINCH_DISABLED_PLUGINS": ""}
    assert made == [{"CUDA_VISIBLE_DEVICES": "", "FINCH_HOME": "/home", **given}]
    slots.close()


def test_slots_have_the_limit_of_running_jobs_of_one_owner() -> None:
    for limit in (None, 3):
        slots = Slots(settings.load(owner_running=limit), 1)
        assert [slot.capabilities.owner_running for slot in slots] == [limit]
        slots.close()
