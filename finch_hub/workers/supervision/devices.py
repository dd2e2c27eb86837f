"""Devices of this machine, found without torch."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device that can run jobs. Its memory, in bytes, is that of the graphics card or of the machine."""

    kind: Literal["cpu", "cuda"]
    index: int
    name: str
    memory_bytes: int
    free_bytes: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables that hide all other devices from a process."""
        return {"CUDA_VISIBLE_DEVICES": str(self.index) if self.kind == "cuda" else ""}


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
    limit = main_memory()
    return Device(
        kind="cpu",
        index=0,
        name=platform.processor() or platform.machine(),
        memory_bytes=limit,
        free_bytes=min(limit, psutil.virtual_memory().available),
    )


def main_memory() -> int:
    """Return the bytes of main memory of the machine, or of the container if that has a lower limit."""
    total = int(psutil.virtual_memory().total)
    for file in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # the file holds "max" if there is no limit
            total = min(total, int(file.read_text(encoding="utf-8")))
    return total


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
            found.append(Device(kind="cuda", index=index, name=name, memory_bytes=memory.total, free_bytes=memory.free))
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    wanted = {part.strip() for part in visible.split(",")}
    return tuple(device for device in found if str(device.index) in wanted)
