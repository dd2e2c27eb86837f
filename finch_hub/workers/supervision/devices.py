"""Devices of this machine, found without torch."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import psutil

from finch_hub import errors
from finch_hub.engine.machine import container
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)

_FIRST_ANSWER_SECONDS = 60.0  # that a driver may take at first; it may wake the cards, which takes seconds each
_ANSWER_SECONDS = 0.5  # that a driver may take to tell the free memory
_FIX = 'look at `nvidia-smi`, or hide the cards with CUDA_VISIBLE_DEVICES=""'
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
    """Return the CUDA devices that this process may use, or the CPU if there are none.

    Raises:
        Unavailable: there are graphics cards, but their driver fails or does not answer.
    """
    calls = BlockingCalls()
    try:
        return calls.start(_find_now).result(_FIRST_ANSWER_SECONDS)
    except TimeoutError:
        what = f"the driver of the graphics cards did not answer for {_FIRST_ANSWER_SECONDS:g} s"
        raise errors.Unavailable(f"{what} ({_FIX})") from None
    finally:
        calls.close()


def _find_now() -> tuple[Device, ...]:
    return _cuda_devices() or (find_cpu(),)


class FreeMemory:
    """Free memory of devices. Their driver is asked in another thread, as one that hangs must not stop heartbeats."""

    def __init__(self) -> None:
        self._calls = BlockingCalls()
        self._pending: Future[tuple[Device, ...]] | None = None
        self._trouble = TroubleLog(log, "refresh_devices", about="driver")

    def refresh(self, known: Sequence[Device]) -> list[Device]:
        """Return the devices with their current free memory, or as they were if the driver does not tell."""
        if self._pending is None:
            self._pending = self._calls.start(_find_now)
            with contextlib.suppress(TimeoutError):
                self._pending.exception(_ANSWER_SECONDS)
        pending = self._pending
        if not pending.done():
            self._trouble.add("the driver of the devices does not answer, so their free memory is not known")
            return list(known)
        self._pending = None
        if (error := pending.exception()) is not None:
            self._trouble.add(f"{type(error).__name__}: {error}")
            return list(known)
        self._trouble.end()
        current = {(device.kind, device.index): device for device in pending.result()}
        return [current.get((device.kind, device.index), device) for device in known]

    def close(self) -> None:
        """End the thread, unless it hangs."""
        self._calls.close()


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
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ()
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return ()
    except pynvml.NVMLError:
        return ()
    found = []
    try:
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
    except pynvml.NVMLError as error:
        what = f"the driver of the graphics cards fails: {error}"
        raise errors.Unavailable(f"{what} ({_FIX})") from error
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    wanted = {part.strip() for part in visible.split(",")}
    return tuple(device for device in found if str(device.index) in wanted)
