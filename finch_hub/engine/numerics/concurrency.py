"""Independent tasks in parallel, each on a share of torch's threads.

An operation that is divided among all threads waits for the slowest thread, and between operations all wait for Python.
On two busy cores that made a training step an eighth slower. Parallel tasks wait for each other only once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from finch_hub.progress import track

T = TypeVar("T")
R = TypeVar("R")

MAX_TASKS = 8
"""Most tasks at once. Each task has buffers of its own, and only one executes Python code at a time."""


def run_in_parallel(tasks: Sequence[Callable[[], T]], *, shares: int | None = None) -> list[T]:
    """Run up to `MAX_TASKS` tasks at once, each on an equal share of torch's threads, and return their results.

    The results depend on the number of tasks, because the number of threads affects the rounding of sums. They do not
    depend on the schedule.

    Args:
        tasks: at most `shares` tasks, if `shares` is given.
        shares: number of shares; None makes one share for each task.

    Raises:
        Exception: the exception of the first task that failed, after all tasks have ended.
    """
    threads = torch.get_num_threads()
    if not tasks:
        return []
    share = max(1, threads // (shares or len(tasks)))
    if len(tasks) == 1 and share == threads:
        return [tasks[0]()]

    def run(task: Callable[[], T]) -> T:
        torch.set_num_threads(share)
        return task()

    futures = [_pool().submit(run, task) for task in tasks]
    try:
        wait(futures)
        return [future.result() for future in futures]
    finally:
        # After an interruption the tasks still use memory that the caller is about to free.
        wait(futures)
        # Some libraries below torch have one setting for all threads.
        torch.set_num_threads(threads)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Return one pool for the whole process, because libraries allocate buffers for each new thread."""
    return ThreadPoolExecutor(MAX_TASKS, thread_name_prefix="finch-compute")


def map_in_threads(work: Callable[[T], R], items: Sequence[T], name: str = "computing matrices") -> list[R]:
    """Return the work's result for each item, computed in as many threads as torch uses, and tell the progress.

    It makes LAPACK parallel, which computes the matrices of a stack one by one. Each thread computes alone. With
    threads below them there would be more threads than cores, which wait for each other by spinning: 3 to 13 s instead
    of 0.5, measured on two busy cores.
    """
    threads = torch.get_num_threads()
    if min(threads, len(items)) < 2:
        return [work(item) for item in track(items, name)]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(track(pool.map(work, items), name, total=len(items)))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the initial value of new threads is one setting of the process
