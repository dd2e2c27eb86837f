"""Locks on the devices of a machine, so that each belongs to one worker of a home at a time.

The kernel releases the locks of a process that ends, however it ends. A worker that was started on demand hands its
devices over after its current jobs when another one waits for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.workers.hostname import find_hostname
from finch_hub.workers.supervision.devices import Device

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The worker that has a device.

    Attributes:
        started: when its process started, since another process may get its id later.
        work: name of its work folder, which is different for each database.
    """

    worker: str
    pid: int
    started: float
    work: str
    is_on_demand: bool

    def __str__(self) -> str:
        return f"worker {self.worker} (process {self.pid})"


_UNKNOWN = Owner(worker="that is starting", pid=0, started=0, work="", is_on_demand=True)  # until it has its devices


class DeviceLocks:
    """Locks of one worker on its devices. Other homes and other machines that share the home have their own."""

    def __init__(self, settings: Settings, *, worker: str, is_on_demand: bool) -> None:
        self._folder = _folder_of(settings)
        started = psutil.Process().create_time()
        self._owner = Owner(
            worker=worker, pid=os.getpid(), started=started, work=settings.work.name, is_on_demand=is_on_demand
        )
        self._held: list[int] = []

    def take(self, found: Sequence[Device]) -> tuple[Device, ...]:
        """Lock the devices that no other worker has, and return them. Wait for those of a worker on demand.

        Raises:
            Conflict: other workers have all of them.
            Unavailable: the folder of the locks cannot be written.
        """
        try:
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.ExitStack() as waiting:
                taken: set[Device] = set()
                is_told = False
                while True:
                    owners = {device: self._lock(device) for device in found if device not in taken}
                    taken |= {device for device, owner in owners.items() if owner is None}
                    others = {device: owner for device, owner in owners.items() if owner is not None}
                    leaving = [owner for owner in others.values() if owner.is_on_demand]
                    if not leaving or self._owner.is_on_demand:
                        break
                    if not is_told:
                        log.warning("wait", extra={"error": f"{leaving[0]} finishes its current jobs first"})
                        waiting.enter_context(_open_locked(self._folder / "wanted", fcntl.LOCK_SH))
                        is_told = True
                    time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise errors.Unavailable(f"could not lock devices in {self._folder}: {error}") from error
        for device, owner in others.items():
            log.warning("skip_device", extra={"device": device, "error": f"it belongs to {owner}"})
        if not taken:
            device, owner = next(iter(others.items()))
            fix = (
                "stop that worker, give this one other devices with CUDA_VISIBLE_DEVICES or taskset, or set FINCH_HOME"
            )
            raise errors.Conflict(f"device {device} belongs to {owner} of the same home ({fix})")
        return tuple(device for device in found if device in taken)

    def are_wanted(self) -> bool:
        """Return whether another worker waits for devices of this one, which was started on demand."""
        try:
            with _open_locked(self._folder / "wanted", fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
        except BlockingIOError:
            return True
        except OSError:  # the home was removed
            return False

    def close(self) -> None:
        """Release the devices."""
        while self._held:
            fd = self._held.pop()
            os.ftruncate(fd, 0)  # clients can start a worker now, although this process has not ended
            os.close(fd)

    def _lock(self, device: Device) -> Owner | None:
        """Lock a device. Return the worker that has it, None if it is this one now."""
        with contextlib.ExitStack() as locks:
            fds = []
            for part in device.parts:
                file = self._folder / f"{part}.lock"
                try:
                    fds.append(locks.enter_context(_open_locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)))
                except BlockingIOError:
                    return _read_owner(file) or _UNKNOWN
            for fd in fds:
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(asdict(self._owner)).encode(), 0)
            self._held += map(os.dup, fds)  # a lock belongs to all duplicates of its descriptor
        return None


def find_owner(settings: Settings) -> Owner | None:
    """Return a worker of the home on this machine that was not started on demand, and runs jobs in its place."""
    for file in _folder_of(settings).glob("*.lock"):
        # No lock is tried, because a worker that takes its devices now would find them locked.
        owner = _read_owner(file)
        if owner is not None and not owner.is_on_demand and _is_alive(owner):
            return owner
    return None


def _folder_of(settings: Settings) -> Path:
    return settings.home / "devices" / find_hostname()  # machines may share a home


@contextlib.contextmanager
def _open_locked(file: Path, operation: int) -> Iterator[int]:
    """Yield the descriptor of a locked file.

    Raises:
        BlockingIOError: another process has a lock, and `operation` does not wait.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, operation)
        yield fd
    finally:
        os.close(fd)


def _read_owner(file: Path) -> Owner | None:
    """Return the last worker that had a device, None while the next one writes its name."""
    try:
        return Owner(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _is_alive(owner: Owner) -> bool:
    try:
        started: float = psutil.Process(owner.pid).create_time()
    except psutil.Error:
        return False
    return abs(started - owner.started) < 1
