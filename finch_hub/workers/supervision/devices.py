"""Devices of this machine, found without torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Literal

import psutil

from finch_hub.engine.machine import container

NO_DEVICE = {"CUDA_VISIBLE_DEVICES": ""}
"""Variables that hide all graphics cards from a process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device that can run jobs. Its memory, in bytes, is that of the graphics card or of the machine.

    Attributes:
        parts: names, unique on this machine, of what only one worker may use: the card, or the cores.
    """

    kind: Literal["cpu", "cuda"]
    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that hide all other devices from a process."""
        return {"CUDA_VISIBLE_DEVICES": str(self.index)} if self.kind == "cuda" else NO_DEVICE


def find_devices() -> tuple[Device, ...]:
    """Return the CUDA devices that this process may use, or the CPU if there are none."""
    return _cuda_devices() or (find_cpu(),)


def refresh(device: Device) -> Device:
    """Return the device with its current free memory."""
    for current in find_devices():
        if (current.kind, current.index) == (device.kind, device.index):
            return current
    return device


def find_cpu() -> Device:
    """Return the CPU, with the memory that this process may use."""
    limit = container.measure_main_memory()
    return Device(
        kind="cpu",
        index=0,
        name=platform.processor() or platform.machine(),
        memory_bytes=limit,
        free_bytes=min(limit, psutil.virtual_memory().available),
        parts=tuple(f"core-{core}" for core in container.list_logical_cores()),
    )


def _cuda_devices() -> tuple[Device, ...]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return ()
    except pynvml.NVMLError:
        return ()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(
                Device(
                    kind="cuda",
                    index=index,
                    name=name,
                    memory_bytes=memory.total,
                    free_bytes=memory.free,
                    parts=(f"card-{pynvml.nvmlDeviceGetUUID(handle)}",),
                )
            )
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    wanted = {part.strip() for part in visible.split(",")}
    return tuple(device for device in found if str(device.index) in wanted)
