"""What a worker does with a job: claim it, keep it, write about it, end it.

Every claim raises the job's fence by one. Whatever the claimer writes later carries that number, and counts only while
it is the job's: a worker that was paused, cut off or given up for dead cannot spoil what its successor does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.transitions import (
    add_events,
    attempts,
    carry_out,
    in_state,
    jobs,
    jobs_of,
    move,
    still_in,
    transition,
)
from finch_hub.registry.types import Json, later, now, once, subset
from finch_hub.specs.events import NewEvent
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
    parameters = _parameters(capabilities) | {"warm_base": warm_base, "named": job_id}
    statement = _claiming(len(capabilities.queues), named=job_id is not None, warm=warm_base is not None)
    return _take(session, statement, worker, lease_seconds, parameters)


def claim_companions(
    session: Session,
    leader: Job,
    *,
    worker: str,
    lease_seconds: float,
    capabilities: values.Capabilities,
    limit: int,
) -> list[Job]:
    """Take up to so many queued jobs that may be trained in one step with one that was just claimed.

    Only where all of them said so (`Requirements.together`), and fit the slot side by side.
    """
    if not leader.requirements.together:
        return []
    same_group = sa.select(jobs.c.gang).where(jobs.c.id == leader.id).scalar_subquery()
    rows = session.execute(
        sa.select(jobs.c.number, jobs.c.memory_bytes)
        .where(*_fits(len(capabilities.queues)), jobs.c.gang == same_group)
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(limit)
        .with_for_update(skip_locked=True),
        _parameters(capabilities),
    ).all()
    taken = []
    left = capabilities.memory_bytes - leader.requirements.memory_bytes
    for row in rows:
        if (
            row.memory_bytes <= left
            and (job := _take(session, _taking(), worker, lease_seconds, {"which": row.number})) is not None
        ):
            left -= row.memory_bytes
            taken.append(job)
    return taken


def _take(
    session: Session, statement: sa.Update, worker: str, lease_seconds: float, parameters: dict[str, Any]
) -> Job | None:
    parameters = parameters | {"claimer": worker, "lease_seconds": lease_seconds}
    row = carry_out(session, statement, JobState.RUNNING, parameters, more={"worker": worker})
    if row is None:
        return None
    session.execute(_ADD_ATTEMPT, {"job_id": row.id, "fence": row.fence, "worker": worker})
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
    row = session.execute(_RENEW, {**_owner(job_id, fence), "lease_seconds": lease_seconds}).one_or_none()
    if row is None:
        raise errors.StaleFence(job_id, fence)
    return values.Renewal(lease_until=row.lease_until, cancel_requested=row.cancel_requested is not None)


def append_events(session: Session, job_id: str, fence: int, new: Sequence[NewEvent]) -> int:
    """Append events and return the number of the last one.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    last = session.scalar(_COUNT_EVENTS, {**_owner(job_id, fence), "more": len(new)})
    if last is None:
        raise errors.StaleFence(job_id, fence)
    if new:
        add_events(session, job_id, int(last), new)
    return int(last)


# The functions that end an attempt take what there is left to be told of it: one statement instead of three.


def succeed(session: Session, job_id: str, fence: int, result: dict[str, Any], *, told: Sequence[NewEvent] = ()) -> Job:
    """End the job well; in one transaction with whatever it made, which is undone if this raises.

    Raises:
        StaleFence: the attempt no longer owns the job.
        CancelRequested: somebody asked to cancel it; call `cancelled` instead.

    """
    parameters = {**_owner(job_id, fence), "its_result": result}
    row = carry_out(session, _succeeding(), JobState.SUCCEEDED, parameters, told=told, ending=("succeeded", None))
    if row is None:
        _lock_owned(session, job_id, fence)
        raise errors.CancelRequested(job_id)
    return jobs_of(session, [row])[0]


def fail(
    session: Session,
    job_id: str,
    fence: int,
    reason: str,
    *,
    retry: values.RetryPolicy | None = None,
    told: Sequence[NewEvent] = (),
) -> Job:
    """End the attempt badly: the job is queued again where the policy allows one more attempt, else it fails.

    A job that somebody asked to cancel is cancelled rather than tried again.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    job = _lock_owned(session, job_id, fence)
    if retry is not None and job.cancel_requested is not None:
        return cancelled(session, job_id, fence, told=told)
    if retry is not None and job.attempts < retry.max_attempts:
        changes = {"reason": reason, **_queued_after(retry.delay(job.attempts))}
        return _end(session, job_id, fence, JobState.QUEUED, "failed", changes=changes, reason=reason, told=told)
    changes = {"reason": reason}
    return _end(session, job_id, fence, JobState.FAILED, "failed", changes=changes, reason=reason, told=told)


def hand_back(
    session: Session, job_id: str, fence: int, *, alone: str | None = None, told: Sequence[NewEvent] = ()
) -> Job:
    """Put the job back into the queue; the attempt is not counted. One that is to be cancelled, is.

    `alone` is why it is not to be trained together with others any more.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    job = _lock_owned(session, job_id, fence)
    if job.cancel_requested is not None:
        return cancelled(session, job_id, fence, told=told)
    changes: dict[str, Any] = {"attempts": jobs.c.attempts - 1, "ring_at": now()}
    if alone is not None:
        changes["gang"] = None
    return _end(session, job_id, fence, JobState.QUEUED, "handed_back", changes=changes, reason=alone, told=told)


def cancelled(session: Session, job_id: str, fence: int, *, told: Sequence[NewEvent] = ()) -> Job:
    """End a job that its owner stopped because somebody asked to.

    Raises:
        StaleFence: the attempt no longer owns the job.

    """
    asked = jobs.c.cancel_requested.is_not(None)
    return _end(session, job_id, fence, JobState.CANCELLED, "cancelled", asked, told=told)


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


def _parameters(capabilities: values.Capabilities) -> dict[str, Any]:
    return {
        **{f"slot_queue_{number}": queue for number, queue in enumerate(capabilities.queues)},
        "slot_device": capabilities.device,
        "slot_memory": capabilities.memory_bytes,
        "slot_labels": list(capabilities.labels),
    }


def _fits(queues: int) -> list[sa.ColumnElement[bool]]:
    return [
        in_state(JobState.QUEUED),
        sa.or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now()),
        jobs.c.queue.in_([sa.bindparam(f"slot_queue_{number}") for number in range(queues)]),
        sa.or_(jobs.c.device == "any", jobs.c.device == sa.bindparam("slot_device")),
        jobs.c.memory_bytes <= sa.bindparam("slot_memory"),
        subset(jobs.c.labels, sa.bindparam("slot_labels", type_=Json)),
    ]


# The statements of a job's usual life are built once: building one takes ten times as long as running it.


@functools.cache
def _claiming(queues: int, *, named: bool, warm: bool) -> sa.Update:
    fits = _fits(queues)
    if named:
        fits.append(jobs.c.id == sa.bindparam("named"))
    return _taking((_warmest if warm else _first)(fits))


@functools.cache
def _taking(number: sa.ScalarSelect[int] | None = None) -> sa.Update:
    changes = {
        "fence": jobs.c.fence + 1,
        "attempts": jobs.c.attempts + 1,
        "worker": sa.bindparam("claimer"),
        "lease_until": later(sa.bindparam("lease_seconds", type_=sa.Float())),
        "started_at": sa.func.coalesce(jobs.c.started_at, now()),
        "not_before": None,
    }
    wanted = sa.bindparam("which", type_=sa.BigInteger()) if number is None else number
    return transition(JobState.RUNNING, jobs.c.number == wanted, changes=changes)


def _first(fits: list[sa.ColumnElement[bool]]) -> sa.ScalarSelect[int]:
    in_order = sa.select(jobs.c.number).where(*fits).order_by(jobs.c.priority.desc(), jobs.c.number)
    return in_order.limit(1).with_for_update(skip_locked=True).scalar_subquery()


def _warmest(fits: list[sa.ColumnElement[bool]]) -> sa.ScalarSelect[int]:
    cold = sa.case(
        (
            sa.or_(jobs.c.base_key == sa.bindparam("warm_base"), jobs.c.created_at < later(-WARM_PATIENCE_SECONDS)),
            0,
        ),
        else_=1,
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
        .where(still_in(JobState.QUEUED, of=best), sa.or_(best.c.not_before.is_(None), best.c.not_before <= now()))
        .order_by(front.c.priority.desc(), front.c.cold, front.c.number)
        .limit(1)
        .with_for_update(of=best, skip_locked=True)
        .scalar_subquery()
    )


@functools.cache
def _succeeding() -> sa.Update:
    changes = {"result": sa.bindparam("its_result", type_=Json), "reason": None}
    return transition(JobState.SUCCEEDED, *_OWNED, jobs.c.cancel_requested.is_(None), changes=changes)


_OWNED = (jobs.c.id == sa.bindparam("job"), jobs.c.fence == sa.bindparam("by_fence"), still_in(JobState.RUNNING))
_RENEW = (
    sa.update(jobs)
    .where(*_OWNED)
    .values(lease_until=later(sa.bindparam("lease_seconds", type_=sa.Float())))
    .returning(jobs.c.lease_until, jobs.c.cancel_requested)
)
_COUNT_EVENTS = (
    sa.update(jobs)
    .where(*_OWNED)
    .values(last_seq=jobs.c.last_seq + sa.bindparam("more", type_=sa.BigInteger()))
    .returning(jobs.c.last_seq)
)
_ADD_ATTEMPT = sa.insert(attempts)


def _owner(job_id: str, fence: int) -> dict[str, Any]:
    return {"job": job_id, "by_fence": fence}


def _owned(job_id: str, fence: int) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == job_id, jobs.c.fence == fence, still_in(JobState.RUNNING)


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
    told: Sequence[NewEvent] = (),
) -> Job:
    owned = (*_owned(job_id, fence), *where)
    row = move(session, state, *owned, changes=changes, told=told, ending=(outcome, reason))
    if row is None:
        _lock_owned(session, job_id, fence)
        raise errors.Conflict(f"nobody asked to cancel job {job_id}")
    return jobs_of(session, [row])[0]
