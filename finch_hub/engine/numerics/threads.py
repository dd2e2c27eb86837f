"""Number of torch's threads during a computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finch_hub.engine.machine.container import count_physical_cores


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
