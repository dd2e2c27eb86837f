"""Locks on the devices of a machine, so that each belongs to one worker of a home at a time.

The kernel releases the locks of a process that ends, however it ends, unless another process inherited them. Such locks
are replaced. A worker that was started on demand hands its devices over after its current jobs when another one waits
for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from finch_hub import errors
from finch_hub.settings import Settings
from finch_hub.workers.hostname import find_hostname
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.devices import Device

log = logging.getLogger(__name__)

_LOCK, _NEXT = ".lock", ".next"  # of whoever has a device, and of whoever gets it then
_POLL_SECONDS = 0.1
_TELL_SECONDS = 30.0  # between lines of the log about the same wait


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """Whoever has a device or is next for it: a worker, or somebody unknown, such as a worker that is starting."""

    device: Device
    file: Path
    owner: Owner | None

    @property
    def is_leaving(self) -> bool:
        return self.owner is None or self.owner.is_on_demand

    def __str__(self) -> str:
        how = "goes to" if self.file.suffix == _NEXT else "belongs to"
        return f"device {self.device} {how} {self.who}"

    @property
    def who(self) -> str:
        if self.owner is not None:
            return str(self.owner)
        pids = [str(pid) for pid, _ in _find_lockers([self.file])[self.file]]
        return f"process {', '.join(pids) or 'unknown'}, which holds {self.file} and does not say which worker it is"


class DeviceLocks:
    """Locks of one worker on its devices. Other homes and other machines that share the home have their own."""

    def __init__(self, settings: Settings, *, worker: str, is_on_demand: bool) -> None:
        self._folder = _folder_of(settings)
        started = psutil.Process().create_time()
        self._owner = Owner(
            worker=worker, pid=os.getpid(), started=started, work=settings.work.name, is_on_demand=is_on_demand
        )
        self._held: list[int] = []
        self._next: dict[Path, int] = {}

    def take(self, found: Sequence[Device]) -> tuple[Device, ...]:
        """Lock the devices that no other worker has, and return them. Wait for those of a worker on demand.

        Who comes first gets a device. Whoever comes while it waits is refused as if it had the device.

        Raises:
            Conflict: other workers have all of them.
            Unavailable: the folder of the locks cannot be written.
        """
        try:
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.ExitStack() as waiting:
                taken: set[Device] = set()
                told_at = None
                while True:
                    holders = {device: self._lock(device) for device in found if device not in taken}
                    taken |= {device for device, holder in holders.items() if holder is None}
                    others = {device: holder for device, holder in holders.items() if holder is not None}
                    is_due = told_at is None or clock.elapsed() - told_at >= _TELL_SECONDS
                    if is_due and others and self._recover():
                        continue
                    leaving = [holder for holder in others.values() if holder.is_leaving]
                    if not leaving or self._owner.is_on_demand:
                        break
                    if told_at is None:
                        waiting.enter_context(_open_locked(self._folder / "wanted", fcntl.LOCK_SH))
                    if is_due:
                        told_at = clock.elapsed()
                        _tell_wait(leaving[0])
                    time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise errors.Unavailable(f"could not lock devices in {self._folder}: {error}") from error
        finally:
            for fd in self._next.values():
                os.close(fd)
            self._next.clear()
        for device, holder in others.items():
            log.warning("skip_device", extra={"device": device, "error": str(holder)})
        if not taken:
            holder = next(iter(others.values()))
            fix = (
                "stop that worker, give this one other devices with CUDA_VISIBLE_DEVICES or taskset, or set FINCH_HOME"
            )
            raise errors.Conflict(f"{holder} of the same home ({fix})")
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

    def _recover(self) -> bool:
        """Replace the locks that dead processes took and their descendants keep. Return whether there were any."""
        with _open_locked(self._folder / "recovery", fcntl.LOCK_EX):  # another worker may have been first
            abandoned = [
                file
                for file, lockers in _find_lockers(list(self._folder.glob(f"*{_LOCK}"))).items()
                if any(taker is None or not psutil.pid_exists(taker) for _, taker in lockers)
            ]
            for file in abandoned:
                about = {"path": file, "error": "its worker is gone, and a process that it started keeps the lock"}
                log.warning("recover_device", extra=about)
                file.unlink(missing_ok=True)
            return bool(abandoned)

    def _lock(self, device: Device) -> _Holder | None:
        """Lock a device. Return who has it or is next for it, None if it is this worker's now."""
        with contextlib.ExitStack() as locks:
            fds = []
            waiting = () if self._owner.is_on_demand else device.parts
            files = [self._folder / f"{part}{_NEXT}" for part in waiting]  # all of them before the first one is tried
            files += [self._folder / f"{part}{_LOCK}" for part in device.parts]
            for file in files:
                if file in self._next:
                    continue
                try:
                    fd = locks.enter_context(_open_locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
                except BlockingIOError:
                    return _Holder(device=device, file=file, owner=_read_owner(file))
                if file.suffix == _NEXT:
                    self._next[file] = self._sign(fd)
                else:
                    fds.append(fd)
            self._held += map(self._sign, fds)
        return None

    def _sign(self, fd: int) -> int:
        """Write this worker's name into a locked file. Return a descriptor that keeps the lock."""
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(self._owner)).encode(), 0)
        return os.dup(fd)  # a lock belongs to all duplicates of its descriptor


def find_owner(settings: Settings) -> Owner | None:
    """Return a worker of the home on this machine that was not started on demand, and runs jobs in its place."""
    for file in _folder_of(settings).glob(f"*{_LOCK}"):
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
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, operation)
            if not _is_at(file, os.fstat(fd)):  # it was replaced before it was locked
                continue
            yield fd
            return
        finally:
            os.close(fd)


def _is_at(file: Path, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(file.stat(), info)
    except FileNotFoundError:
        return False


def _tell_wait(holder: _Holder) -> None:
    how = "finishes its current jobs first" if holder.owner is not None else "has not ended"
    log.warning("wait", extra={"path": holder.file, "error": f"{holder.who} {how}"})


def _find_lockers(files: Collection[Path]) -> dict[Path, list[tuple[int, int | None]]]:
    """Return the processes that keep each file locked, and who locked it, None for one that is gone.

    Both differ if a process inherited the lock. Only Linux tells, and only of processes of this user and container.
    """
    found: dict[Path, list[tuple[int, int | None]]] = {file: [] for file in files}
    with contextlib.suppress(OSError):
        by_key = {(info.st_dev, info.st_ino): file for file in files for info in (file.stat(),)}
        names = {file.name for file in files}
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):  # it was closed meanwhile
                        if entry.readlink().name not in names:  # it may be on a disk that hangs
                            continue
                        info = entry.stat()
                        if (file := by_key.get((info.st_dev, info.st_ino))) is not None:
                            text = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="utf-8")
                            takers = re.findall(r"^lock:.* FLOCK +\S+ +\S+ +(\d+) ", text, re.MULTILINE)
                            found[file] += [(pid, int(taker) or None) for taker in takers]
    return found


def _read_owner(file: Path) -> Owner | None:
    """Return the last worker that had a device, None while the next one writes its name."""
    try:
        told = json.loads(file.read_bytes())
        return Owner(**{field.name: told[field.name] for field in fields(Owner)})  # another version may write more
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _is_alive(owner: Owner) -> bool:
    try:
        started: float = psutil.Process(owner.pid).create_time()
    except psutil.Error:
        return False
    return abs(started - owner.started) < 1
