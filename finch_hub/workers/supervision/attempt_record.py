"""Database writes of one attempt: its events, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Session
from finch_hub.registry.values import RetryPolicy
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobResult
from finch_hub.workers.supervision import clock, fault_points
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.lease import ClaimedJob, Lease

log = logging.getLogger(__name__)


class AttemptRecord:
    """Writes the events and the end of one attempt, with its fence, so that they count only while it owns the job.

    Args:
        claim_next: claims another job in the transaction that ends the attempt: one commit for a job instead of two.

    Attributes:
        ended_job: the job as the attempt left it, None if another attempt owned it by then.
        next_job: the job that `claim_next` claimed.
    """

    def __init__(
        self, context: AttemptContext, job: Job, lease: Lease, *, claim_next: Callable[[Session], Job | None]
    ) -> None:
        self._context, self._job, self._lease, self._claim_next = context, job, lease, claim_next
        self._database = context.stores.database
        self._unwritten_events: list[NewEvent] = []  # for the transaction of the end
        self.ended_job: Job | None = None
        self.next_job: ClaimedJob | None = None

    def add_event(self, event: NewEvent) -> None:
        """Add an event to those that are written next."""
        if event.message:
            event = event.evolve(message=self._context.redactor.clean(event.message))
        self._context.events.add(self._job, event)

    def add_message(self, text: str, *, level: Literal["info", "warn", "error"] = "info") -> None:
        """Add a message for people to the events that are written next."""
        self.add_event(NewEvent(type="message", level=level, message=text))

    def write_due_events(self) -> None:
        """Write the events of all attempts of the worker if any are due. It waits if the database does not answer."""
        self._context.events.write_due()

    def seconds_until_due(self) -> float:
        """Return the seconds until events are to be written, infinite if there are none."""
        return self._context.events.seconds_until_due()

    def succeed(self, record_result: Callable[[Session], JobResult]) -> None:
        """End the job with success, and register what it made in the same transaction."""
        job = self._job

        def succeed(session: Session) -> Job:
            result = record_result(session).model_dump(mode="json", exclude_none=True)
            return attempts.succeed(session, job.id, job.fence, result, events=self._unwritten_events)

        try:
            self._end(succeed)
        except errors.CancelRequested:
            self.cancel()  # requested while the result was stored; the transaction undid what it registered
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            self.fail(str(error), retry=False)

    def fail(self, reason: str, *, retry: bool) -> None:
        """End the attempt with a failure, and queue the job again if `retry` is set and it has attempts left."""
        job, settings, reason = self._job, self._context.stores.settings, self._context.redactor.clean(reason)
        policy = None
        if retry:
            policy = RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)
        self._end(
            lambda session: attempts.fail(
                session, job.id, job.fence, reason, retry=policy, events=self._unwritten_events
            )
        )

    def cancel(self) -> None:
        """End the job as cancelled."""
        self._end(
            lambda session: attempts.cancel(session, self._job.id, self._job.fence, events=self._unwritten_events)
        )

    def hand_back(self, *, alone: str | None = None) -> None:
        """Queue the job again without using up an attempt. `alone` is why it must be trained alone from now on."""
        job, alone = self._job, None if alone is None else self._context.redactor.clean(alone)
        self._end(
            lambda session: attempts.hand_back(session, job.id, job.fence, alone=alone, events=self._unwritten_events)
        )

    def log(self, action: str, level: int = logging.INFO, *, error: object = "") -> None:
        """Log an action of the attempt."""
        job, text = self._job, f" error={error}" if error else ""
        log.log(level, "action=%s job_id=%s attempt=%d fence=%d%s", action, job.id, job.attempts, job.fence, text)

    def _end(self, change: Callable[[Session], Job]) -> None:
        """Make the last write, which adds the events that are left. Wait for a database that does not answer."""
        began = clock.elapsed()
        self._unwritten_events += self._context.events.take(self._job)
        while True:
            requested_at = clock.elapsed()
            try:
                with self._database.write() as session:
                    ended = change(session)
                    claimed = self._claim_next(session)
                    fault_points.reach("supervisor.committing")
                break
            except errors.SchemaMismatch:
                raise
            except errors.Unavailable as error:
                self.log("write", logging.WARNING, error=error)
                self._lease.wait_for_database(began)
        self.ended_job = ended  # set after the commit, since a failed one may leave the job to another attempt
        self.next_job = None if claimed is None else ClaimedJob(job=claimed, requested_at=requested_at)
        fault_points.reach("supervisor.committed")
        self._unwritten_events.clear()
        if ended.reason:  # the built-in listener logs the rest
            self.log(f"ended state={ended.state.value}", error=ended.reason)
