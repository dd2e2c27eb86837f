"""Slots of a worker: places for jobs on its devices, with the warm child processes in them."""

from __future__ import annotations

import collections
import contextlib
import queue
from collections.abc import Iterator, Sequence

from finch_hub.registry import values
from finch_hub.settings import Settings
from finch_hub.workers.logs.context import log_fields
from finch_hub.workers.runs import kinds
from finch_hub.workers.supervision import clock, devices
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.device_locks import DeviceLocks
from finch_hub.workers.supervision.group import AttemptGroup
from finch_hub.workers.supervision.lease import Claim, ClaimedJob
from finch_hub.workers.supervision.orphan_cleanup import OrphanCleanup
from finch_hub.workers.supervision.process import Child, write_environment

USABLE_SHARE = 0.9  # of main memory; the rest is for the system and the worker


class Slot:
    """Place for one job, or one group of jobs, on one device. It keeps the child of the last job for the next one.

    Attributes:
        share: bytes of the device's memory for this slot.
        next_job: a job that was claimed for the slot and does not run yet.
        open_claim: a claim for the slot whose outcome is unknown, since the database did not answer.
    """

    def __init__(
        self, device: devices.Device, capabilities: values.Capabilities, orphan_cleanup: OrphanCleanup
    ) -> None:
        self.device, self.capabilities, self._orphan_cleanup = device, capabilities, orphan_cleanup
        self.share = capabilities.memory_bytes
        self.child: Child | None = None
        self.attempt: Attempt | AttemptGroup | None = None
        self.next_job: ClaimedJob | None = None
        self.open_claim: Claim | None = None

    def take_child(self, settings: Settings) -> Child:
        """Return the warm child, or a new one."""
        child, self.child = self.child, None
        if child is not None and child.is_alive:
            return child
        if child is not None:
            child.kill()
        environment = {**self.device.environment, **write_environment(settings)}
        return Child(environment, orphan_cleanup=self._orphan_cleanup)

    def keep_child(self, child: Child | None) -> None:
        """Keep the child that an attempt left, if any."""
        self.child = child
        if child is not None:
            child.idle_since = clock.elapsed()

    def drop_child(self) -> None:
        """End the warm child."""
        child, self.child = self.child, None
        if child is not None:
            child.end(grace=0.5)


class Slots:
    """Slots of one worker, `count` or else one on each device. They own the devices until they are closed.

    Raises:
        Conflict: other workers of the home have all devices of this machine.
    """

    def __init__(
        self,
        settings: Settings,
        count: int | None,
        *,
        queues: Sequence[str] = ("default",),
        labels: Sequence[str] = (),
        worker: str = "",
        is_on_demand: bool = False,
    ) -> None:
        self._locks = DeviceLocks(settings, worker=worker, is_on_demand=is_on_demand)
        found = self._locks.take(devices.find_devices())
        chosen = [found[number % len(found)] for number in range(count or len(found))]
        slots_per_device = collections.Counter((device.kind, device.index) for device in chosen)
        self._orphan_cleanup, self._free_memory = OrphanCleanup(), devices.FreeMemory()
        self._all: list[Slot] = []
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()  # the slot that was used last is the warmest
        for device in chosen:
            share = device.memory_bytes // slots_per_device[device.kind, device.index]
            if device.kind == "cpu":
                share = min(int(USABLE_SHARE * share), settings.memory_bytes or share)
            capabilities = values.Capabilities(
                device=device.kind,
                memory_bytes=share,
                queues=tuple(queues),
                labels=tuple(labels),
                kinds=tuple(kinds.MODULES),
                version=kinds.VERSION,
                worker=worker,
                owner_running=settings.owner_running,
            )
            self._all.append(Slot(device, capabilities, self._orphan_cleanup))
            self._free.put(self._all[-1])

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._all)

    def close(self) -> None:
        """End the warm children, kill all processes that are left, and release the devices."""
        for slot in self._all:
            slot.drop_child()
        self._orphan_cleanup.close()
        self._free_memory.close()
        self._locks.close()

    def are_wanted(self) -> bool:
        """Return whether another worker waits for the devices."""
        return self._locks.are_wanted()

    @property
    def are_busy(self) -> bool:
        """Whether a job runs in any slot."""
        return any(slot.attempt is not None for slot in self._all)

    @property
    def differ(self) -> bool:
        """Whether some slots can run jobs that others cannot."""
        return any(slot.capabilities != self._all[0].capabilities for slot in self._all)

    @contextlib.contextmanager
    def take(self) -> Iterator[Slot]:
        """Lend a free slot. There are at most as many callers as slots."""
        slot = self._free.get()
        try:
            with log_fields(device=f"{slot.device.kind}:{slot.device.index}"):
                yield slot
        finally:
            self._free.put(slot)

    def refresh_devices(self) -> list[values.Device]:
        """Update each slot's device, and return what the slots have of the devices."""
        reported = []
        current = self._free_memory.refresh([slot.device for slot in self._all])
        for slot, device in zip(self._all, current, strict=True):
            slot.device = device
            free = min(slot.share, device.free_bytes)
            reported.append(values.Device(kind=device.kind, name=device.name, memory_bytes=slot.share, free_bytes=free))
        return reported

    def drop_idle_children(self, *, older_than: float) -> None:
        """End the warm children that have been idle for more than so many seconds."""
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
