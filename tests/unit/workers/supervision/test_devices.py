from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from finch_hub.engine.machine import container
from finch_hub.workers.supervision import devices


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
def test_refresh_returns_the_free_memory_of_the_same_device() -> None:
    known = replace(devices.find_devices()[1], free_bytes=1)
    assert devices.refresh(known).free_bytes == 70
    gone = replace(known, index=5)
    assert devices.refresh(gone) is gone
