"""Torch's threads: how many this machine has cores for, and their number during a computation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch


def count_physical_cores() -> int:
    """Count the physical cores that this process may use; hyper-threads share a core's arithmetic units."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Set torch's threads (None: one per physical core), and restore them and the random state afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or count_physical_cores())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
