"""Database writes of one attempt: its events, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from typing import Literal

from finch_hub import errors
from finch_hub.registry import adapter_versions, attempts, claims
from finch_hub.registry.database import Session
from finch_hub.registry.values import RetryPolicy
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobResult, JobState
from finch_hub.workers.logs.context import identify
from finch_hub.workers.runs import kinds
from finch_hub.workers.supervision import clock, fault_points
from finch_hub.workers.supervision.attempt_context import AttemptContext
from finch_hub.workers.supervision.event_buffer import Batch
from finch_hub.workers.supervision.lease import ClaimedJob, Lease

log = logging.getLogger(__name__)


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
        outcome: how the attempt ended: `succeeded`, `failed`, `cancelled` or `handed_back`; `lost` if it wrote no end.
        ended_job: the job as the attempt left it, None if another attempt owned it by then.
        next_job: the job that `claim_next` claimed.
    """

    def __init__(
        self, context: AttemptContext, job: Job, lease: Lease, *, claim_next: Callable[[Session, str], Job | None]
    ) -> None:
        self._context, self._job, self._lease, self._claim_next = context, job, lease, claim_next
        self._database = context.stores.database
        self._last = Batch(job)  # for the transaction of the end
        self._unwritten: list[NewEvent] = []  # of these
        self.outcome = "lost"
        self.ended_job: Job | None = None
        self.next_job: ClaimedJob | None = None

    def add_event(self, event: NewEvent) -> None:
        """Add an event to those that are written next."""
        message, data = self._context.redactor.clean(event.message), self._context.redactor.clean_values(event.data)
        if message != event.message or data != event.data:
            event = event.evolve(message=message, data=data)
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
            return attempts.succeed(session, job, result, events=self._unwritten)

        try:
            self._end(succeed, "succeeded")
        except errors.CancelRequested:
            self.cancel()  # requested while the result was stored; the transaction undid what it registered
        except errors.StaleFence:
            raise
        except errors.FinchError as error:
            self.fail(str(error), retry=False)

    def fail(self, reason: str, *, retry: bool, unusable: str | None = None) -> None:
        """End the attempt with a failure, and queue the job again if `retry` is set and it has attempts left.

        Args:
            unusable: version to quarantine, since its base computes no numbers with it.
        """
        job, settings, reason = self._job, self._context.stores.settings, self._context.redactor.clean(reason)
        policy = None
        if retry:
            policy = RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)

        def fail(session: Session) -> Job:
            if unusable is not None:
                with contextlib.suppress(errors.NotFound, errors.InvalidReference):  # the end counts, whatever it names
                    adapter_versions.quarantine(session, unusable, job_id=job.id)
            return attempts.fail(session, job, reason, retry=policy, events=self._unwritten)

        self._end(fail, "failed")

    def pass_on(self, reason: str, *, alone: Literal["wait", "retry", "fail"]) -> None:
        """Queue the job again for other workers, since this one cannot run it now (see `attempts.pass_on`)."""
        job, settings, reason = self._job, self._context.stores.settings, self._context.redactor.clean(reason)
        policy = RetryPolicy(max_attempts=settings.max_attempts, base_delay=settings.retry_seconds)
        self._end(
            lambda session: attempts.pass_on(session, job, reason, policy=policy, alone=alone, events=self._unwritten),
            "handed_back",
        )

    def cancel(self) -> None:
        """End the job as cancelled."""
        self._end(lambda session: attempts.cancel(session, self._job, events=self._unwritten), "cancelled")

    def hand_back(self, *, alone: str | None = None) -> None:
        """Queue the job again without using up an attempt. `alone` is why it must be trained alone from now on."""
        job, alone = self._job, None if alone is None else self._context.redactor.clean(alone)
        self._end(lambda session: attempts.hand_back(session, job, alone=alone, events=self._unwritten), "handed_back")

    def set_aside(self, why: str) -> None:
        """Queue the job again for workers of other versions, since this one cannot read it."""
        job, why = self._job, self._context.redactor.clean(why)
        self._end(
            lambda session: attempts.set_aside(session, job, why, version=kinds.VERSION, events=self._unwritten),
            "handed_back",
        )

    def log(self, action: str, level: int = logging.INFO, **fields: object) -> None:
        """Log an action of the attempt."""
        log.log(level, action, extra={**identify(self._job), **fields})

    def _end(self, change: Callable[[Session], Job], outcome: str) -> None:
        """Make the last write, which adds the events that are left. Wait for a database that does not answer.

        Args:
            outcome: how the attempt ends, unless a cancellation or the limit of attempts changes that.
        """
        began, claim_next, token = clock.elapsed(), self._claim_next, secrets.token_hex(8)
        taken = self._context.events.take(self._job)
        taken.events[:0] = self._last.events  # of an end that was refused
        self._last = taken
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
                        self._unwritten = self._last.find_unwritten(session)
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
        self._last.events.clear()
        if ended is not None:
            by_state = {JobState.CANCELLED: "cancelled", JobState.FAILED: "failed"}
            self.outcome = by_state.get(ended.state, outcome)
            self.log("ended", state=ended.state.value, error=ended.reason)
