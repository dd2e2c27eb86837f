"""Work that is independent of each other, each piece on a share of torch's threads.

Operations that are divided among all threads wait for the slowest thread after each of them, and for Python in between:
on two busy cores that cost an eighth of a training step's speed. Pieces that run side by side wait for each other once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

# Pieces at once: each has buffers of its own, and Python runs one at a time.
MOST = 8


def side_by_side(tasks: Sequence[Callable[[], T]], *, ways: int | None = None) -> list[T]:
    """Run up to `MOST` tasks at once, each on an equal share of this thread's threads; return what they return.

    What a task computes depends on how many there are, for the number of threads shows in how sums are rounded, but
    not on how they are scheduled.

    Args:
        tasks: no more than `ways`, if that is given.
        ways: make the shares as if there were so many tasks.

    Raises:
        whatever a task raises, the first one's; the others have ended by then.

    """
    threads = torch.get_num_threads()
    if not tasks:
        return []
    each = max(1, threads // (ways or len(tasks)))
    if len(tasks) == 1 and each == threads:
        return [tasks[0]()]

    def run(task: Callable[[], T]) -> T:
        torch.set_num_threads(each)
        return task()

    futures = [_pool().submit(run, task) for task in tasks]
    try:
        wait(futures)
        return [future.result() for future in futures]
    finally:
        # Where this thread was interrupted they still compute, with what whoever catches that would take away.
        wait(futures)
        # Some of the libraries under torch have one number for all threads.
        torch.set_num_threads(threads)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: what the libraries keep for each is made once."""
    return ThreadPoolExecutor(MOST, thread_name_prefix="finch-compute")


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do the work for all items, in as many threads as torch uses: LAPACK takes a stack's matrices one by one.

    Each of the threads computes alone. Teams of threads below each of them would be more threads than cores, which wait
    for each other by spinning: measured on two busy cores, 3 to 13 s instead of 0.5.
    """
    threads = torch.get_num_threads()
    if min(threads, len(items)) < 2:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # what new threads begin with is one value for the process
