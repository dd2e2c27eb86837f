from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.fleet import wait_until
from support.logs import list_said

from finch_hub import errors
from finch_hub.engine.machine import container
from finch_hub.workers.supervision import devices
from finch_hub.workers.supervision.devices import FreeMemory


@pytest.fixture
def graphics_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphics cards with 24 and 80 bytes, as NVIDIA's library reports them."""
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(total=(24, 80)[index], free=(20, 70)[index]),
        nvmlDeviceGetName=lambda index: ("L4", "H100")[index],
        nvmlDeviceGetUUID=lambda index: ("GPU-4", "GPU-100")[index],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def memory() -> Iterator[FreeMemory]:
    memory = FreeMemory()
    yield memory
    memory.close()


@pytest.fixture
def no_graphics_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_memory_of_the_cpu_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "measure_main_memory", lambda: 7)
    cpu = devices.find_cpu()
    assert (cpu.memory_bytes, cpu.free_bytes) == (7, 7)


@pytest.mark.usefixtures("graphics_cards")
def test_graphics_cards_are_found_and_the_visible_ones_used(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = devices.find_devices()
    assert (first.kind, first.index, first.name, first.memory_bytes, first.free_bytes) == ("cuda", 0, "L4", 24, 20)
    assert (second.index, second.name, second.memory_bytes, second.free_bytes) == (1, "H100", 80, 70)
    assert (first.parts, second.parts) == (("card-GPU-4",), ("card-GPU-100",))
    assert second.environment == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 1")
    assert devices.find_devices() == (second,)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (cpu,) = devices.find_devices()
    assert cpu.kind == "cpu"


@pytest.mark.usefixtures("no_graphics_cards")
def test_cpu_is_the_device_without_graphics_cards() -> None:
    (cpu,) = devices.find_devices()
    assert (cpu.kind, cpu.index, cpu.memory_bytes) == ("cpu", 0, container.measure_main_memory())
    assert cpu.parts == tuple(f"core-{core}" for core in sorted(os.sched_getaffinity(0)))
    assert 0 < cpu.free_bytes <= cpu.memory_bytes
    assert cpu.environment == {"CUDA_VISIBLE_DEVICES": ""}, "a process on the CPU sees no graphics card"


@pytest.mark.usefixtures("graphics_cards")
def test_refresh_returns_the_free_memory_of_the_same_device(memory: FreeMemory) -> None:
    known = replace(devices.find_devices()[1], free_bytes=1)
    gone = replace(known, index=5)
    refreshed = memory.refresh([known, gone])
    assert refreshed[0].free_bytes == 70
    assert refreshed[1] is gone


@pytest.mark.usefixtures("graphics_cards")
def test_driver_that_hangs_stops_nobody_and_is_asked_once(
    memory: FreeMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = [replace(device, free_bytes=1) for device in devices.find_devices()]
    caplog.set_level("INFO")
    answer, asked = threading.Event(), list[int]()

    def hang(index: int) -> SimpleNamespace:
        asked.append(index)
        answer.wait()
        return SimpleNamespace(total=24, free=20)

    monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", hang)
    for _ in range(3):
        assert memory.refresh(known) == known
    wait_until(lambda: bool(asked), "the driver to be asked")
    assert memory.refresh(known) == known
    assert asked == [0]
    answer.set()
    wait_until(lambda: memory.refresh(known)[0].free_bytes == 20, "the driver to answer")
    assert [said.get("driver") for said in list_said(caplog)] == [None, "well"]


@pytest.mark.usefixtures("graphics_cards")
def test_driver_that_fails_is_told_and_leaves_the_devices_as_they_were(
    memory: FreeMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = list(devices.find_devices())

    def fail(*_: int) -> None:
        raise sys.modules["pynvml"].NVMLError("GPU is lost")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", fail)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlShutdown", fail)
    assert memory.refresh(known) == known
    assert "GPU is lost" in str(list_said(caplog))
    with pytest.raises(errors.Unavailable, match="the driver of the graphics cards fails: GPU is lost"):
        devices.find_devices()


@pytest.mark.usefixtures("graphics_cards")
def test_driver_that_hangs_keeps_no_worker_from_saying_so_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hang() -> None:
        assert answer.wait(20), "nobody waits for ever"

    monkeypatch.setattr(devices, "_FIRST_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", hang)
    try:
        with pytest.raises(errors.Unavailable, match=r"the driver of the graphics cards did not answer for 0\.01 s"):
            devices.find_devices()
    finally:
        answer.set()
