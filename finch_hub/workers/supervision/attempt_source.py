"""Source of attempts: claims jobs for a slot, and makes the attempt or the group of attempts that runs them."""

from __future__ import annotations

import functools
import logging
import threading

from finch_hub import errors
from finch_hub.engine.machine import container
from finch_hub.registry import claims
from finch_hub.registry.database import Session
from finch_hub.specs.jobs import Job
from finch_hub.storage.stores import Stores
from finch_hub.workers.logs.context import identify
from finch_hub.workers.supervision import clock
from finch_hub.workers.supervision.attempt import Attempt
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.blocking_calls import BlockingCalls
from finch_hub.workers.supervision.event_buffer import EventBuffer
from finch_hub.workers.supervision.group import AttemptGroup
from finch_hub.workers.supervision.lease import Claim, ClaimedJob, Leases
from finch_hub.workers.supervision.process import ChildProcess
from finch_hub.workers.supervision.readiness import Readiness
from finch_hub.workers.supervision.slots import USABLE_SHARE, Slot
from finch_hub.workers.supervision.work_folders import WorkFolders

_RETRY_SECONDS = 1.0  # until a database that did not answer is asked for companions again

log = logging.getLogger(__name__)


class AttemptSource:
    """Source of attempts for the slots of one worker.

    Attributes:
        stopping: once set, nothing is claimed and running jobs are handed back.
        is_draining: whether nothing is claimed while running jobs go on.
        readiness: whether the worker claims jobs, and why not.
    """

    def __init__(self, worker: str, stores: Stores, folders: WorkFolders) -> None:
        self._worker, self._database, self._settings = worker, stores.database, stores.settings
        self._memory_limit = self._settings.memory_bytes or int(USABLE_SHARE * container.measure_main_memory())
        self.stopping = threading.Event()
        self.is_draining = False
        calls = BlockingCalls()
        self.readiness = Readiness(stores, calls, stopping=self.stopping)
        self._context = AttemptContext(
            stores=stores,
            leases=Leases(stores.database, stores.settings, stopping=self.stopping),
            events=EventBuffer(stores.database),
            folders=folders,
            blocking_calls=calls,
            readiness=self.readiness,
            redactor=stores.redactor,
        )

    def close(self) -> None:
        """End the threads that keep leases and wait for stores."""
        self._context.leases.close()
        self._context.blocking_calls.close()

    def renew_leases(self) -> frozenset[str]:
        """Renew the leases that are due, and return the ids of the jobs that this worker holds."""
        return self._context.leases.renew_due()

    def claim(self, slot: Slot) -> Attempt | AttemptGroup | None:
        """Return what a slot runs next: the job that its last attempt claimed, or the best job that fits, if any."""
        claimed, slot.next_job = slot.next_job, None
        if claimed is None and (claimed := self._claim_for(slot)) is None:
            return None
        take_child = functools.partial(slot.take_child, self._settings)
        memory_limit = min(self._memory_limit, slot.share) if slot.device.kind == "cpu" else self._memory_limit
        make_attempt = functools.partial(Attempt, context=self._context, memory_limit=memory_limit)
        companions = self._claim_companions(slot, claimed.job)
        if not companions:
            claim_next = functools.partial(self._claim_next, slot=slot)
            return make_attempt(claimed, take_child=take_child, claim_next=claim_next)
        return AttemptGroup(
            [claimed, *companions],
            lambda member, child: make_attempt(member, take_child=lambda: child, claim_next=None),
            take_child=take_child,
        )

    def _claim_for(self, slot: Slot) -> ClaimedJob | None:
        """Claim a job for a slot, or return the one that its last claim took although the database did not say so."""
        if slot.open_claim is None and (self._is_ending or not self.readiness.take_turn()):
            return None
        claim = slot.open_claim or Claim()
        try:
            with self._database.write() as session:
                taken = claims.find_claimed(session, claim.token) if slot.open_claim is not None else []
                job = taken[0] if taken else self._claim(session, slot.child, claim.token, slot=slot)
        except errors.FinchError as error:
            log.warning("claim", extra={"error": error})
            slot.open_claim = claim
            return None
        slot.open_claim = None
        if job is None:
            self.readiness.return_turn()
        return None if job is None else ClaimedJob(job=job, requested_at=claim.requested_at)

    @property
    def _is_ending(self) -> bool:
        return self.stopping.is_set() or self.is_draining

    def _claim_next(self, session: Session, child: ChildProcess | None, token: str, *, slot: Slot) -> Job | None:
        """Claim within the transaction that ends an attempt, which must not wait for the store."""
        return self._claim(session, child, token, slot=slot) if self.readiness.is_ready else None

    def _claim(self, session: Session, child: ChildProcess | None, token: str, *, slot: Slot) -> Job | None:
        if self._is_ending:
            return None
        return claims.claim(
            session,
            worker=self._worker,
            lease_seconds=self._settings.lease_seconds,
            capabilities=slot.capabilities,
            warm_base=child.warm_base if child else None,
            token=token,
        )

    def _claim_companions(self, slot: Slot, leader: Job) -> list[ClaimedJob]:
        """Claim the jobs to train in one step with a job. The engine does that on a CPU only."""
        size = self._settings.gang_size
        if self.readiness.remark is not None:  # it tries one job at a time
            return []
        if not leader.requirements.together or slot.device.kind != "cpu" or size == 1 or self._is_ending:
            return []
        claim, is_repeated = Claim(), False
        while clock.elapsed() - claim.requested_at <= self._settings.heartbeat_seconds:
            try:
                with self._database.write() as session:
                    companions = claims.find_claimed(session, claim.token) if is_repeated else []
                    companions = companions or claims.claim_companions(
                        session,
                        leader,
                        worker=self._worker,
                        lease_seconds=self._settings.lease_seconds,
                        capabilities=slot.capabilities,
                        limit=size - 1,
                        token=claim.token,
                    )
                return [ClaimedJob(job=job, requested_at=claim.requested_at) for job in companions]
            except errors.FinchError as error:
                log.warning("claim_companions", extra={**identify(leader), "error": error})
                is_repeated = True
                if self.stopping.wait(_RETRY_SECONDS):
                    break
        return []
