"""Cores and memory that this process may use: those of the machine, or fewer in a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

_MEMBERSHIP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


def list_logical_cores() -> list[int]:
    """Return the numbers of the logical cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def count_physical_cores() -> int:
    """Count the physical cores that this process may use; hyper-threads share a core's arithmetic units."""
    allowed = list_logical_cores()
    try:
        # The hyper-threads of a core have the same list. psutil counts the cores of the whole machine.
        cores = len({(_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_bytes() for cpu in allowed})
    except OSError:
        cores = min(len(allowed), psutil.cpu_count(logical=False) or len(allowed))
    quota = min((quota / period for quota, period in _read_quotas()), default=float("inf"))
    return max(1, int(min(cores, quota)))


def measure_main_memory() -> int:
    """Return the bytes of main memory of the machine, or of the container if that has a lower limit."""
    return min([int(psutil.virtual_memory().total), *_read_memory_limits()])


def _read_quotas() -> Iterator[tuple[int, int]]:
    """Yield the processor time of each control group, and the period in which the group may use that time."""
    for group in _find_groups("cpu"):
        # The files of version 2 and of version 1. "max" and -1 are no limit.
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            yield int(quota), int(period)
        with contextlib.suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
            if int(quota) > 0:
                yield int(quota), int(period)


def _read_memory_limits() -> Iterator[int]:
    for group in _find_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # the file holds "max" if there is no limit
                yield int((group / name).read_text(encoding="ascii"))


def _find_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process: its own group and all above it."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS  # version 1 has a tree for each controller
        # A container may not see its own path, because its group is mounted as the root.
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            yield root / group
