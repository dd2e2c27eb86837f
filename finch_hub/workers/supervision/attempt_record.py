"""Database writes of one attempt: its events, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Literal

from finch_hub import errors
from finch_hub.registry import attempts, claims
from finch_hub.registry.database import Session
from finch_hub.registry.values import RetryPolicy
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobResult
from finch_hub.workers.runs import kinds
from finch_hub.workers.supervision import clock, fault_points
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.lease import ClaimedJob, Lease

log = logging.getLogger(__name__)

_BATCH_SECONDS = 0.5  # events are written in batches; clients poll twice a second
_BATCH_EVENTS = 200


class _ClaimFailed(Exception):
    """The claim in the transaction that ends an attempt raised an error, its cause."""


@contextlib.contextmanager
def _claiming() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _ClaimFailed from error


def _claim_nothing(session: Session, token: str) -> None:
    return None


class AttemptRecord:
    """Writes the events and the end of one attempt, with its fence, so that they count only while it owns the job.

    Args:
        claim_next: claims another job, with a token, in the transaction that ends the attempt: one commit for a job
            instead of two.

    Attributes:
        ended_job: the job as the attempt left it, None if another attempt owned it by then.
        next_job: the job that `claim_next` claimed.
    """

    def __init__(
        self, context: AttemptContext, job: Job, lease: Lease, *, claim_next: Callable[[Session, str], Job | None]
    ) -> None:
        self._context, self._job, self._lease, self._claim_next = context, job, lease, claim_next
        self._database = context.stores.database
        self._events: list[NewEvent] = []
        self._batch_began = 0.0
        self._num_written, self._is_uncertain = 0, False  # whether the last batch was written
        self.ended_job: Job | None = None
        self.next_job: ClaimedJob | None = None

    def add_event(self, event: NewEvent) -> None:
        """Add an event to the next batch."""
        if not self._events:
            self._batch_began = time.monotonic()
        if event.message:
            event = event.evolve(message=self._context.redactor.clean(event.message))
        self._events.append(event)

    def add_message(self, text: str, *, level: Literal["info", "warn", "error"] = "info") -> None:
        """Add a message for people to the next batch."""
        self.add_event(NewEvent(type="message", level=level, message=text))

    def write_due_events(self) -> None:
        """Write the batch if it is due. It waits if the database does not answer."""
        if self._events and (len(self._events) >= _BATCH_EVENTS or self.seconds_until_due() <= 0):
            try:
                with self._database.write() as session:
                    self._drop_written(session)
                    attempts.append_events(session, self._job, self._events)
                self._num_written += len(self._events)
                self._events.clear()
                self._is_uncertain = False
            except errors.Unavailable as error:  # perhaps after the commit
                self.log("append_events", logging.WARNING, error=error)
                self._is_uncertain = True
                self._batch_began = time.monotonic()

    def seconds_until_due(self) -> float:
        """Return the seconds until the batch is due, infinite if it is empty."""
        return self._batch_began + _BATCH_SECONDS - time.monotonic() if self._events else float("inf")

    def succeed(self, record_result: Callable[[Session], JobResult]) -> None:
        """End the job with success, and register what it made in the same transaction."""
        job = self._job

        def succeed(session: Session) -> Job:
            result = record_result(session).model_dump(mode="json", exclude_none=True)
            return attempts.succeed(session, job, result, events=self._events)

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
        self._end(lambda session: attempts.fail(session, job, reason, retry=policy, events=self._events))

    def cancel(self) -> None:
        """End the job as cancelled."""
        self._end(lambda session: attempts.cancel(session, self._job, events=self._events))

    def hand_back(self, *, alone: str | None = None) -> None:
        """Queue the job again without using up an attempt. `alone` is why it must be trained alone from now on."""
        job, alone = self._job, None if alone is None else self._context.redactor.clean(alone)
        self._end(lambda session: attempts.hand_back(session, job, alone=alone, events=self._events))

    def set_aside(self, why: str) -> None:
        """Queue the job again for workers of other versions, since this one cannot read it."""
        job, why = self._job, self._context.redactor.clean(why)
        self._end(lambda session: attempts.set_aside(session, job, why, version=kinds.VERSION, events=self._events))

    def log(self, action: str, level: int = logging.INFO, *, error: object = "") -> None:
        """Log an action of the attempt."""
        job, text = self._job, f" error={error}" if error else ""
        log.log(level, "action=%s job_id=%s attempt=%d fence=%d%s", action, job.id, job.attempts, job.fence, text)

    def _drop_written(self, session: Session) -> None:
        """Drop the events of a batch that was written, although the database did not say so."""
        if self._is_uncertain:
            num_new = attempts.count_events(session, self._job) - self._num_written
            self._num_written += num_new
            self._is_uncertain = False
            del self._events[:num_new]

    def _end(self, change: Callable[[Session], Job]) -> None:
        """Make the last write, which adds the events that are left. Wait for a database that does not answer."""
        began, claim_next, token = clock.elapsed(), self._claim_next, secrets.token_hex(8)
        ended: Job | None = None
        claimed: Job | None = None
        is_repeated = False
        while True:
            requested_at = clock.elapsed()
            try:
                with self._database.write() as session:
                    if is_repeated:  # the last commit may have reached the database, which could not say so
                        claimed = next(iter(claims.find_claimed(session, token)), None)
                        ended = attempts.find_ended(session, self._job)
                    if ended is None and claimed is None:
                        self._drop_written(session)
                        ended = change(session)
                        with _claiming():
                            claimed = claim_next(session, token)
                        fault_points.reach("supervisor.committing")
                    else:
                        requested_at = began
                break
            except _ClaimFailed as error:  # the transaction is lost, but the end of this job must not be
                self.log("claim", logging.ERROR, error=error.__cause__)
                ended, claimed, claim_next = None, None, _claim_nothing
            except errors.SchemaMismatch:
                raise
            except errors.Unavailable as error:
                self.log("write", logging.WARNING, error=error)
                ended, claimed, is_repeated = None, None, True
                self._lease.wait_for_database(began)
        self.ended_job = ended  # set after the commit, since a failed one may leave the job to another attempt
        self.next_job = None if claimed is None else ClaimedJob(job=claimed, requested_at=requested_at)
        fault_points.reach("supervisor.committed")
        self._events.clear()
        if ended is not None and ended.reason:  # the built-in listener logs the rest
            self.log(f"ended state={ended.state.value}", error=ended.reason)
