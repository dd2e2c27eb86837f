"""Descendants of a child process, which plugins and libraries start, wherever they go.

A process that leaves its process group, as daemons do, cannot be killed with the group. On Linux a child adopts its
descendants, so that they stay below it in the tree of processes while it lives. Once it has ended, they are known by a
variable that they inherited.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable

import psutil

MARK = "FINCH_CHILD"
"""Variable of a child's environment, which is different for each child."""

_SET_CHILD_SUBREAPER = 36  # of prctl
_KILL_SECONDS = 1.0  # a process in an uninterruptible wait ends later


def adopt() -> None:
    """Let descendants whose parent ends become children of this process, not of init. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def find(pid: int) -> list[psutil.Process]:
    """Return the descendants of a process that have not ended."""
    with contextlib.suppress(psutil.Error):
        return [process for process in psutil.Process(pid).children(recursive=True) if _is_alive(process)]
    return []


def has_any() -> bool:
    """Return whether this process has descendants that have not ended. On Linux it adopts them all (see `adopt`)."""
    if sys.platform == "linux":
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False  # the usual case, for which reading all processes would take too long
    return bool(find(os.getpid()))


def find_marked(mark: str) -> list[psutil.Process]:
    """Return the processes with this value of the variable that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.pid != os.getpid() and _is_alive(process):
                found.append(process)
    return found


def kill(find_left: Callable[[], list[psutil.Process]]) -> None:
    """Kill processes until none is left, because some may start others meanwhile."""
    deadline = time.monotonic() + _KILL_SECONDS
    while (left := find_left()) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.01)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
