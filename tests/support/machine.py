"""Number of test processes and threads that fit the cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

PROCESS_BYTES = 3 * 2**29  # a test process and the workers that its tests start
MAX_PROCESSES = 8  # each collects all tests and starts a database of its own, so that more gain nothing

_CGROUP = Path("/sys/fs/cgroup")


def choose_processes(cores: float, memory_bytes: int) -> int:
    """Return how many test processes run side by side."""
    return max(1, min(math.floor(cores), memory_bytes // PROCESS_BYTES, MAX_PROCESSES))


def choose_threads(cores: float, processes: int) -> int:
    """Return how many threads a library may start in each process, so that processes do not compete."""
    return max(1, math.floor(cores) // processes)


def count_cores(cgroup: Path = _CGROUP) -> float:
    """Count the cores that this process may use: by its affinity, and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _numbers(cgroup / "cpu.max")  # version 2: quota and period in one file
    if not quota:
        quota = _numbers(cgroup / "cpu/cpu.cfs_quota_us") + _numbers(cgroup / "cpu/cpu.cfs_period_us")
    if len(quota) == 2 and quota[0] > 0:  # -1 is "no quota" in version 1
        return min(float(allowed), quota[0] / quota[1])
    return float(allowed)


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that are free on the machine, or within the limit of its container if that is less."""
    free = int(psutil.virtual_memory().available)
    for folder, limit_file, used_file in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _numbers(folder / limit_file), _numbers(folder / used_file)
        if limit and used:
            free = min(free, limit[0] - used[0] + _cached_bytes(folder / "memory.stat"))
    return max(free, 0)


def _cached_bytes(file: Path) -> int:
    """Return the bytes of cached files, which count as used and are free when a process needs them."""
    try:
        lines = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0
    return sum(int(value) for name, value in lines if name == "inactive_file")


def _numbers(file: Path) -> list[int]:
    """Return the numbers of a file of the kernel; none if it is missing or says "max"."""
    try:
        return [int(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
