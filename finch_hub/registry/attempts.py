"""Attempts: the writes of the worker that claimed a job, from the first renewal to the end.

Each write carries the fence of its claim, and is refused once a later claim owns the job (see `claims`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import (
    add_events,
    build_transition,
    execute_transition,
    in_state,
    in_state_unindexed,
    to_jobs,
)
from finch_hub.registry.types import Columns, Json, later, now, once
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.value import JsonObject


def renew(session: Session, job_id: str, fence: int, lease_seconds: float) -> values.Renewal:
    """Extend the lease from now, and return whether a cancellation was requested.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    row = session.execute(_RENEW, {**_describe_owner(job_id, fence), "lease_seconds": lease_seconds}).one_or_none()
    if row is None:
        raise errors.StaleFence(job_id, fence)
    return values.Renewal(lease_until=row.lease_until, cancel_requested=row.cancel_requested is not None)


def append_events(session: Session, job_id: str, fence: int, events: Sequence[NewEvent]) -> int:
    """Append events and return the number of the last event.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    last = session.scalar(_COUNT_EVENTS, {**_describe_owner(job_id, fence), "num_events": len(events)})
    if last is None:
        raise errors.StaleFence(job_id, fence)
    if events:
        add_events(session, job_id, int(last), events)
    return int(last)


# The functions that end an attempt also append its last events, in one statement instead of three.


def succeed(session: Session, job_id: str, fence: int, result: JsonObject, *, events: Sequence[NewEvent] = ()) -> Job:
    """Complete the job. Call it in the transaction that registers what the job made.

    Raises:
        StaleFence: the attempt no longer owns the job.
        CancelRequested: a cancellation was requested; call `cancel` instead.
    """
    parameters = {**_describe_owner(job_id, fence), "job_result": result}
    row = execute_transition(
        session, _build_success(), JobState.SUCCEEDED, parameters, events=events, ending=("succeeded", None)
    )
    if row is None:
        _lock_owned(session, job_id, fence)
        raise errors.CancelRequested(job_id)
    return to_jobs(session, [row])[0]


def fail(
    session: Session,
    job_id: str,
    fence: int,
    reason: str,
    *,
    retry: values.RetryPolicy | None = None,
    events: Sequence[NewEvent] = (),
) -> Job:
    """End the attempt with a failure: queue the job again if the policy allows it, otherwise fail the job.

    If cancellation was requested, cancel the job instead of queueing it.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    job = _lock_owned(session, job_id, fence)
    if retry is not None and job.cancel_requested is not None:
        return cancel(session, job_id, fence, events=events)
    state, changes = JobState.FAILED, {"reason": reason}
    if retry is not None and job.attempts < retry.max_attempts:
        state, changes = JobState.QUEUED, {"reason": reason, **_delay_queueing(retry.delay(job.attempts))}
    return _end(session, job_id, fence, state, "failed", changes=changes, reason=reason, events=events)


def hand_back(
    session: Session, job_id: str, fence: int, *, alone: str | None = None, events: Sequence[NewEvent] = ()
) -> Job:
    """Return the job to the queue without counting the attempt. If cancellation was requested, cancel the job instead.

    Args:
        alone: reason why the job must no longer be trained together with others.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    job = _lock_owned(session, job_id, fence)
    if job.cancel_requested is not None:
        return cancel(session, job_id, fence, events=events)
    changes: Columns = {"attempts": jobs.c.attempts - 1, "ring_at": now()}
    if alone is not None:
        changes["gang"] = None
    return _end(session, job_id, fence, JobState.QUEUED, "handed_back", changes=changes, reason=alone, events=events)


def set_aside(session: Session, job: Job, why: str, *, version: str, events: Sequence[NewEvent] = ()) -> Job:
    """Return a job that a version of Finch Hub cannot read to the queue, for workers of other versions.

    The attempt is not counted. If cancellation was requested, cancel the job instead.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    row = _lock_owned(session, job.id, job.fence)
    if row.cancel_requested is not None:
        return cancel(session, job.id, job.fence, events=events)
    known = row.set_aside if isinstance(row.set_aside, list) else []
    reason = f"finch-hub {version} cannot read this job: {why} (run a worker of another version, or cancel the job)"
    changes: Columns = {
        "attempts": jobs.c.attempts - 1,
        "set_aside": [*known, version],
        "reason": reason,
        "ring_at": now(),
    }
    return _end(
        session, job.id, job.fence, JobState.QUEUED, "handed_back", changes=changes, reason=reason, events=events
    )


def cancel(session: Session, job_id: str, fence: int, *, events: Sequence[NewEvent] = ()) -> Job:
    """Cancel a job whose cancellation was requested.

    Raises:
        StaleFence: the attempt no longer owns the job.
        Conflict: no cancellation was requested.
    """
    is_requested = jobs.c.cancel_requested.is_not(None)
    return _end(session, job_id, fence, JobState.CANCELLED, "cancelled", is_requested, events=events)


def expire_leases(
    session: Session, policy: values.RetryPolicy, *, held: Collection[str] = (), limit: int = 100
) -> list[Job]:
    """End the attempts whose lease expired, and return their jobs, which are queued again, failed or cancelled.

    Args:
        held: ids of jobs that the caller runs itself. After a sleep of its machine, it renews their leases instead.
    """
    rows = session.execute(
        sa.select(jobs)
        .where(in_state(JobState.RUNNING), jobs.c.lease_until < once(now()), jobs.c.id.not_in(held))
        .order_by(jobs.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    ended = []
    for row in rows:
        reason = f"worker {row.worker} was lost: it did not renew its lease"
        if row.cancel_requested is not None:
            state, changes = JobState.CANCELLED, {}
        elif row.attempts >= policy.max_attempts:
            state, changes = JobState.FAILED, {"reason": f"{reason} (attempt {row.attempts} of {policy.max_attempts})"}
        else:
            state, changes = JobState.QUEUED, {"reason": reason, **_delay_queueing(policy.delay(row.attempts))}
        ended.append(_end(session, row.id, row.fence, state, "lost", changes=changes, reason=reason))
    return ended


# The statements of a usual attempt are built once, because building one takes ten times as long as running it.


@functools.cache
def _build_success() -> sa.Update:
    changes = {"result": sa.bindparam("job_result", type_=Json), "reason": None}
    return build_transition(JobState.SUCCEEDED, *_IS_OWNER, jobs.c.cancel_requested.is_(None), changes=changes)


_IS_OWNER = (
    jobs.c.id == sa.bindparam("owned_job"),
    jobs.c.fence == sa.bindparam("owner_fence"),
    in_state_unindexed(JobState.RUNNING),
)
_LOCK = sa.select(jobs).where(*_IS_OWNER).with_for_update()
_RENEW = (
    sa.update(jobs)
    .where(*_IS_OWNER)
    .values(lease_until=later(sa.bindparam("lease_seconds", type_=sa.Float())))
    .returning(jobs.c.lease_until, jobs.c.cancel_requested)
)
_COUNT_EVENTS = (
    sa.update(jobs)
    .where(*_IS_OWNER)
    .values(last_seq=jobs.c.last_seq + sa.bindparam("num_events", type_=sa.BigInteger()))
    .returning(jobs.c.last_seq)
)


def _describe_owner(job_id: str, fence: int) -> Columns:
    return {"owned_job": job_id, "owner_fence": fence}


def _lock_owned(session: Session, job_id: str, fence: int) -> sa.Row[Any]:
    row = session.execute(_LOCK, _describe_owner(job_id, fence)).one_or_none()
    if row is None:
        raise errors.StaleFence(job_id, fence)
    return row


def _delay_queueing(delay: float) -> Columns:
    return dict.fromkeys(("not_before", "ring_at"), later(delay))


def _end(
    session: Session,
    job_id: str,
    fence: int,
    state: JobState,
    outcome: str,
    *where: sa.ColumnElement[bool],
    changes: Columns | None = None,
    reason: str | None = None,
    events: Sequence[NewEvent] = (),
) -> Job:
    statement = build_transition(state, *_IS_OWNER, *where, changes=changes)
    owner = _describe_owner(job_id, fence)
    row = execute_transition(session, statement, state, owner, events=events, ending=(outcome, reason))
    if row is None:
        _lock_owned(session, job_id, fence)
        raise errors.Conflict(f"cannot cancel job {job_id}: no cancellation was requested")
    return to_jobs(session, [row])[0]
