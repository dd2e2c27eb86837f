"""How jobs come into slots: claimed in the database, and made the attempt, or the gang of attempts, that runs them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.specs.jobs import Job
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.supervision import clock, devices
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.blocking_calls import Helpers
from finch_hub.workers.supervision.group import Gang, Seat
from finch_hub.workers.supervision.lease import Leases
from finch_hub.workers.supervision.slots import USABLE, Slot

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import Capabilities
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.supervision.process import Child
    from finch_hub.workers.supervision.work_folders import WorkFolders

log = logging.getLogger(__name__)


class Claims:
    """Claims jobs for the slots of one worker.

    Attributes:
        stopping: once set nothing is claimed any more, and what runs is handed back.
        draining: whether nothing is claimed, while what runs goes on.

    """

    def __init__(
        self, worker: str, stores: Stores, folders: WorkFolders, *, queues: Sequence[str], labels: Sequence[str]
    ) -> None:
        settings = stores.settings
        self._worker, self._stores, self._folders = worker, stores, folders
        self._queues, self._labels = queues, labels
        self._settings, self._redactor = settings, Redactor.of(settings)
        self._leases, self._helpers = Leases(stores.database, settings), Helpers()
        self._memory_limit = settings.memory_bytes or int(USABLE * devices.main_memory())
        self.stopping = threading.Event()
        self.draining = False

    def close(self) -> None:
        """Keep no leases any more."""
        self._leases.close()
        self._helpers.close()

    def capabilities(self, slot: Slot) -> Capabilities:
        """Return what a slot can take on."""
        return slot.capabilities(self._queues, self._labels)

    def claim(self, slot: Slot) -> Attempt | Gang | None:
        """Return what a slot is to run next: what was claimed for it already, or the best job that fits, if any."""
        claimed, slot.claimed = slot.claimed, None
        if claimed is None:
            asked = clock.elapsed()
            try:
                with self._stores.database.write() as session:
                    job = self._claim_in(session, slot, slot.child)
            except errors.Unavailable as error:
                log.warning("action=claim error=%s", error)
                return None  # whatever is due is rung for again
            if job is None:
                return None
            claimed = job, asked
        take_child = functools.partial(slot.take_child, str(self._settings.home))
        companions = self._claim_companions(slot, claimed[0])
        if not companions:
            return self._attempt(
                slot, *claimed, child=take_child, claim_next=lambda session, child: self._claim_in(session, slot, child)
            )
        gang = Gang(take_child, 1 + len(companions))
        gang.attempts = [
            self._attempt(slot, *member, child=functools.partial(_same, seat), claim_next=_claim_nothing, shared=True)
            for member, seat in zip([claimed, *companions], gang.seats, strict=True)
        ]
        return gang

    def _attempt(self, slot: Slot, job: Job, asked: float, **options: Any) -> Attempt:
        limit = self._memory_limit
        return Attempt(
            job,
            asked=asked,
            stores=self._stores,
            leases=self._leases,
            folders=self._folders,
            helpers=self._helpers,
            stopping=self.stopping,
            redactor=self._redactor,
            memory_limit=min(limit, slot.share) if slot.device.kind == "cpu" else limit,
            **options,
        )

    def _claim_companions(self, slot: Slot, leader: Job) -> list[tuple[Job, float]]:
        """Claim what may be trained in one step with a job; on a processor, where the engine does that."""
        size = self._settings.gang_size
        if not leader.requirements.together or slot.device.kind != "cpu" or size == 1 or self.stopping.is_set():
            return []
        asked = clock.elapsed()
        try:
            with self._stores.database.write() as session:
                taken = attempts.claim_companions(
                    session,
                    leader,
                    worker=self._worker,
                    lease_seconds=self._settings.lease_seconds,
                    capabilities=self.capabilities(slot),
                    limit=size - 1,
                )
        except errors.Unavailable as error:
            log.warning("action=claim_companions job_id=%s error=%s", leader.id, error)
            return []
        return [(job, asked) for job in taken]

    def _claim_in(self, session: Session, slot: Slot, child: Child | Seat | None) -> Job | None:
        if self.stopping.is_set() or self.draining:
            return None
        return attempts.claim(
            session,
            worker=self._worker,
            lease_seconds=self._settings.lease_seconds,
            capabilities=self.capabilities(slot),
            warm_base=child.warm_base if child else None,
        )


def _same(seat: Seat) -> Seat:
    return seat


def _claim_nothing(session: Session, child: Child | Seat | None) -> None:
    """Claim nothing: a gang's slot is free when all of its members have ended."""
