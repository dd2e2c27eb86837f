"""What a worker does with a job: claim it, keep it, write about it, end it.

Every claim raises the job's fence by one. Whatever the claimer writes later carries that number, and counts only while
it is the job's: a worker that was paused, cut off or given up for dead cannot spoil what its successor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.transitions import attempts, end_attempt, events, in_state, jobs, jobs_of, move
from finch_hub.registry.types import Json, later, now, once, subset
from finch_hub.specs.jobs import Job, JobState, Requirements

# How far down the queue a job with a warm base may jump ahead, and for how long the others put up with it.
WARM_WINDOW = 64
WARM_PATIENCE_SECONDS = 60.0


def claim(
    session: Session,
    *,
    worker: str,
    lease_seconds: float,
    capabilities: values.Capabilities,
    warm_base: str | None = None,
    job_id: str | None = None,
) -> Job | None:
    """Take the best queued job that fits, by priority, then warm base, then age; None where there is none.

    `warm_base` is a `finch_hub.registry.jobs.base_key`; it counts among the first `WARM_WINDOW` jobs that fit, and not
    against those older than `WARM_PATIENCE_SECONDS`. `job_id` takes that one, or none.
    """
    best = _best_fitting(capabilities, warm_base, job_id)
    row = move(
        session,
        JobState.RUNNING,
        jobs.c.number == best,
        changes={
            "fence": jobs.c.fence + 1,
            "attempts": jobs.c.attempts + 1,
            "worker": worker,
            "lease_until": later(lease_seconds),
            "started_at": sa.func.coalesce(jobs.c.started_at, now()),
            "not_before": None,
        },
        event={"worker": worker},
    )
    if row is None:
        return None
    session.execute(sa.insert(attempts).values(job_id=row.id, fence=row.fence, worker=worker))
    return jobs_of(session, [row])[0]


def misfits(requirements: Requirements, capabilities: values.Capabilities) -> list[str]:
    """Return why a job can never run on such a slot, nothing where it can; `claim` decides by the same rules."""
    reasons = []
    if requirements.queue not in capabilities.queues:
        reasons.append(f"serves no queue {requirements.queue!r}")
    if requirements.device not in ("any", capabilities.device):
        reasons.append(f"has no {requirements.device}")
    if requirements.memory_bytes > capabilities.memory_bytes:
        reasons.append(
            f"has {capabilities.memory_bytes / 2**30:.1f} GiB of memory, {requirements.memory_bytes / 2**30:.1f} needed"
        )
    if missing := sorted(set(requirements.labels) - set(capabilities.labels)):
        reasons.append(f"lacks the label{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    return reasons


def renew(session: Session, job_id: str, fence: int, lease_seconds: float) -> values.Renewal:
    """Extend the lease from now, and tell whether the job is to be cancelled.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    row = session.execute(
        sa.update(jobs)
        .where(*_owned(job_id, fence))
        .values(lease_until=later(lease_seconds))
        .returning(jobs.c.lease_until, jobs.c.cancel_requested)
    ).one_or_none()
    if row is None:
        raise errors.StaleFence(job_id, fence)
    return values.Renewal(lease_until=row.lease_until, cancel_requested=row.cancel_requested is not None)


def append_events(session: Session, job_id: str, fence: int, new: Sequence[values.NewEvent]) -> int:
    """Append events and return the number of the last one.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    last = session.scalar(
        sa.update(jobs)
        .where(*_owned(job_id, fence))
        .values(last_seq=jobs.c.last_seq + len(new))
        .returning(jobs.c.last_seq)
    )
    if last is None:
        raise errors.StaleFence(job_id, fence)
    first = int(last) - len(new) + 1
    if new:
        session.execute(
            sa.insert(events),
            [{"job_id": job_id, "seq": seq, **item.model_dump()} for seq, item in enumerate(new, start=first)],
        )
    return int(last)


def succeed(session: Session, job_id: str, fence: int, result: dict[str, Any]) -> Job:
    """End the job well; in one transaction with whatever it made, which is undone if this raises.

    Raises:
        StaleFence: the attempt no longer owns the job.
        CancelRequested: somebody asked to cancel it; call `cancelled` instead.

    """
    return _end(
        session,
        job_id,
        fence,
        JobState.SUCCEEDED,
        "succeeded",
        jobs.c.cancel_requested.is_(None),
        changes={"result": result, "reason": None},
    )


def fail(session: Session, job_id: str, fence: int, reason: str, *, retry: values.RetryPolicy | None = None) -> Job:
    """End the attempt badly: the job is queued again where the policy allows one more attempt, else it fails.

    A job that somebody asked to cancel is cancelled rather than tried again.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    job = _lock_owned(session, job_id, fence)
    if retry is not None and job.cancel_requested is not None:
        return cancelled(session, job_id, fence)
    if retry is not None and job.attempts < retry.max_attempts:
        changes = {"reason": reason, **_queued_after(retry.delay(job.attempts))}
        return _end(session, job_id, fence, JobState.QUEUED, "failed", changes=changes, reason=reason)
    return _end(session, job_id, fence, JobState.FAILED, "failed", changes={"reason": reason}, reason=reason)


def hand_back(session: Session, job_id: str, fence: int) -> Job:
    """Put the job back into the queue; the attempt is not counted. One that is to be cancelled, is.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    job = _lock_owned(session, job_id, fence)
    if job.cancel_requested is not None:
        return cancelled(session, job_id, fence)
    changes = {"attempts": jobs.c.attempts - 1, "ring_at": now()}
    return _end(session, job_id, fence, JobState.QUEUED, "handed_back", changes=changes)


def cancelled(session: Session, job_id: str, fence: int) -> Job:
    """End a job that its owner stopped because somebody asked to.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    return _end(session, job_id, fence, JobState.CANCELLED, "cancelled", jobs.c.cancel_requested.is_not(None))


def expire_leases(session: Session, policy: values.RetryPolicy, *, limit: int = 100) -> list[Job]:
    """End the attempts whose lease ran out: queue their jobs again, or fail or cancel them; return these jobs."""
    rows = session.execute(
        sa.select(jobs)
        .where(in_state(JobState.RUNNING), jobs.c.lease_until < once(now()))
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
            state, changes = JobState.QUEUED, {"reason": reason, **_queued_after(policy.delay(row.attempts))}
        ended.append(_end(session, row.id, row.fence, state, "lost", changes=changes, reason=reason))
    return ended


def _best_fitting(capabilities: values.Capabilities, warm_base: str | None, job_id: str | None) -> sa.ScalarSelect[int]:
    fits = [
        in_state(JobState.QUEUED),
        sa.or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now()),
        jobs.c.queue.in_(capabilities.queues),
        jobs.c.device.in_(["any", capabilities.device]),
        jobs.c.memory_bytes <= capabilities.memory_bytes,
        subset(jobs.c.labels, sa.literal(list(capabilities.labels), Json)),
    ]
    if job_id is not None:
        fits.append(jobs.c.id == job_id)
    cold = sa.case(
        (sa.or_(jobs.c.base_key == (warm_base or ""), jobs.c.created_at < later(-WARM_PATIENCE_SECONDS)), 0), else_=1
    )
    front = (
        sa.select(jobs.c.number, jobs.c.priority, cold.label("cold"))
        .where(*fits)
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(WARM_WINDOW)
        .subquery("front")
    )
    # The row is locked outside the window: a lock within it would hide all of the window's jobs from other claimers.
    best = jobs.alias("best")
    return (
        sa.select(best.c.number)
        .join(front, front.c.number == best.c.number)
        .where(in_state(JobState.QUEUED, of=best))
        .order_by(front.c.priority.desc(), front.c.cold, front.c.number)
        .limit(1)
        .with_for_update(of=best, skip_locked=True)
        .scalar_subquery()
    )


def _owned(job_id: str, fence: int) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == job_id, jobs.c.fence == fence, in_state(JobState.RUNNING)


def _lock_owned(session: Session, job_id: str, fence: int) -> sa.Row[Any]:
    row = session.execute(sa.select(jobs).where(*_owned(job_id, fence)).with_for_update()).one_or_none()
    if row is None:
        raise errors.StaleFence(job_id, fence)
    return row


def _queued_after(delay: float) -> dict[str, Any]:
    moment: sa.ColumnElement[datetime] = later(delay)
    return {"not_before": moment, "ring_at": moment}


def _end(
    session: Session,
    job_id: str,
    fence: int,
    state: JobState,
    outcome: str,
    *where: sa.ColumnElement[bool],
    changes: dict[str, Any] | None = None,
    reason: str | None = None,
) -> Job:
    row = move(session, state, *_owned(job_id, fence), *where, changes=changes)
    if row is None:
        _lock_owned(session, job_id, fence)
        if state is JobState.SUCCEEDED:
            raise errors.CancelRequested(job_id)
        raise errors.Conflict(f"nobody asked to cancel job {job_id}")
    end_attempt(session, job_id, fence, outcome, reason)
    return jobs_of(session, [row])[0]
