"""The places for jobs that a worker has on its devices, and the warm children in them."""

from __future__ import annotations

import collections
import contextlib
import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from finch_hub.registry import values
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job
from finch_hub.workers.supervision import clock, devices
from finch_hub.workers.supervision.orphan_cleanup import Guard
from finch_hub.workers.supervision.process import Child

if TYPE_CHECKING:
    from finch_hub.workers.supervision.attempt import Attempt
    from finch_hub.workers.supervision.group import Gang

USABLE = 0.9  # of main memory: the system and the worker need some too


class Slot:
    """Place for one job at a time, or one gang, on one device; keeps the child of its last job, warm for the next.

    Attributes:
        share: of the device's memory, in bytes: slots of one device divide it.
        claimed: a job for it, with the moment that it was asked for.

    """

    def __init__(self, device: devices.Device, share: int, guard: Guard) -> None:
        self.device, self.share, self._guard = device, share, guard
        self.child: Child | None = None
        self.attempt: Attempt | Gang | None = None
        self.claimed: tuple[Job, float] | None = None

    def capabilities(self, queues: Sequence[str], labels: Sequence[str]) -> values.Capabilities:
        """Return what it can take on, for a worker of these queues and labels."""
        return values.Capabilities(
            device=self.device.kind, memory_bytes=self.share, queues=tuple(queues), labels=tuple(labels)
        )

    def take_child(self, home: str) -> Child:
        """Return the warm child, or a new one."""
        child, self.child = self.child, None
        if child is not None and child.alive:
            return child
        if child is not None:
            child.kill()
        return Child({**self.device.environment, "FINCH_HOME": home}, guard=self._guard)

    def keep_child(self, child: Child | None) -> None:
        """Keep the child that an attempt left, if it left one."""
        self.child = child
        if child is not None:
            child.idle_since = clock.elapsed()

    def drop_child(self) -> None:
        """End the warm child."""
        child, self.child = self.child, None
        if child is not None:
            child.end(grace=0.5)

    def kill(self) -> None:
        """Kill whatever runs in it."""
        for child in (self.child, self.attempt.child if self.attempt else None):
            if child is not None:
                child.kill()


class Slots:
    """The slots of one worker, one for each device unless told otherwise."""

    def __init__(self, settings: Settings, count: int | None) -> None:
        found = devices.find_devices()
        chosen = [found[number % len(found)] for number in range(count or len(found))]
        sharing = collections.Counter((device.kind, device.index) for device in chosen)
        self._guard = Guard()
        self._all: list[Slot] = []
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()  # the last used is the warmest
        for device in chosen:
            share = device.memory_bytes // sharing[device.kind, device.index]
            if device.kind == "cpu":
                share = min(int(USABLE * share), settings.memory_bytes or share)
            self._all.append(Slot(device, share, self._guard))
            self._free.put(self._all[-1])

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._all)

    def close(self) -> None:
        """End the warm children, and whatever else is left."""
        for slot in self._all:
            slot.drop_child()
        self._guard.close()

    @property
    def busy(self) -> bool:
        """Whether a job runs in any of them."""
        return any(slot.attempt is not None for slot in self._all)

    @contextlib.contextmanager
    def take(self) -> Iterator[Slot]:
        """Lend a free slot; there are as many callers at a time as slots."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)

    def report(self) -> list[values.Device]:
        """Look at the devices, and return what each slot has of them."""
        found = []
        for slot in self._all:
            slot.device = device = devices.refresh(slot.device)
            free = min(slot.share, device.free_bytes)
            found.append(values.Device(kind=device.kind, name=device.name, memory_bytes=slot.share, free_bytes=free))
        return found

    def drop_idle_children(self, *, older_than: float) -> None:
        """End the warm children that had nothing to do for so many seconds."""
        now = clock.elapsed()
        free: list[Slot] = []
        try:
            with contextlib.suppress(queue.Empty):
                while True:
                    free.append(self._free.get_nowait())
            for slot in free:
                child = slot.child
                if child is not None and now - (child.idle_since or now) > older_than:
                    slot.drop_child()
        finally:
            for slot in reversed(free):
                self._free.put(slot)
