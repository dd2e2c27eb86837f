"""Attempts: the writes of the worker that claimed a job, from the first renewal to the end.

Each write carries fence, worker and token of its claim, and is refused unless that claim owns the job (see `claims`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import placement, settlements, values, workers
from finch_hub.registry.progress_thinning import thin_progress
from finch_hub.registry.tables import attempts, job_events, jobs
from finch_hub.registry.transitions import (
    JOB_COLUMNS,
    add_events,
    build_transition,
    execute_transition,
    in_state,
    in_state_unindexed,
    to_jobs,
)
from finch_hub.registry.types import Columns, Json, is_ahead, later, now, once, one_of
from finch_hub.settings import MAX_LEASE_SECONDS
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import FINAL, Job, JobState
from finch_hub.specs.value import JsonObject

_LONGEST_LEASE_SECONDS = 30 * MAX_LEASE_SECONDS  # other versions may allow longer ones
_LEAST_WAIT_SECONDS = 1.0  # until a worker claims a job again that it passed on


def renew(session: Session, job: Job, lease_seconds: float) -> values.Renewal:
    """Extend the lease from now, and return whether a cancellation was requested.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    row = session.execute(_RENEW, {**_describe_owner(job), "lease_seconds": lease_seconds}).one_or_none()
    if row is None:
        raise errors.StaleFence(job.id, job.fence)
    return values.Renewal(lease_until=row.lease_until, cancel_requested=row.cancel_requested is not None)


def append_events(session: Session, job: Job, events: Sequence[NewEvent]) -> int:
    """Append events and return the number of the last event. Earlier progress is thinned now and then.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    last = session.scalar(_COUNT_EVENTS, {**_describe_owner(job), "num_events": len(events)})
    if last is None:
        raise errors.StaleFence(job.id, job.fence)
    if events:
        add_events(session, job.id, int(last), events)
        thin_progress(session, job.id, int(last), len(events))
    return int(last)


def count_events(session: Session, job: Job) -> int:
    """Return the number of events that the attempt has appended.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    last = _lock_owned(session, job).last_seq
    began = sa.select(sa.func.max(job_events.c.seq)).where(job_events.c.job_id == job.id, job_events.c.type == "state")
    return int(last - (session.scalar(began) or 0))


def find_ended(session: Session, job: Job) -> Job | None:
    """Return the job if the attempt has already ended it, None if it has not, or if another has claimed it since.

    After a commit whose outcome is unknown, this tells whether the end was committed.
    """
    ended = sa.select(attempts.c.outcome).where(
        attempts.c.job_id == job.id, attempts.c.fence == job.fence, attempts.c.worker == job.worker
    )
    if session.scalar(ended) in (None, "lost"):
        return None
    row = session.execute(sa.select(*JOB_COLUMNS).where(jobs.c.id == job.id, jobs.c.fence == job.fence)).one_or_none()
    return None if row is None else to_jobs(session, [row])[0]


# The functions that end an attempt also append its last events, in one statement instead of three.


def succeed(session: Session, job: Job, result: JsonObject, *, events: Sequence[NewEvent] = ()) -> Job:
    """Complete the job. Call it in the transaction that registers what the job made.

    Raises:
        StaleFence: the attempt no longer owns the job.
        CancelRequested: a cancellation was requested; call `cancel` instead.
    """
    parameters = {**_describe_owner(job), "job_result": result}
    row = execute_transition(session, _build_success(), JobState.SUCCEEDED, parameters, events=events)
    if row is None:
        _lock_owned(session, job)
        raise errors.CancelRequested(job.id)
    if settlements.end_attempt(session, row, "succeeded", None):
        settlements.settle_now(session, row.id)
    return to_jobs(session, [row])[0]


def fail(
    session: Session, job: Job, reason: str, *, retry: values.RetryPolicy | None = None, events: Sequence[NewEvent] = ()
) -> Job:
    """End the attempt with a failure: queue the job again if the policy allows it, otherwise fail the job.

    If cancellation was requested, cancel the job instead of queueing it.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    row = _lock_owned(session, job)
    if retry is not None and row.cancel_requested is not None:
        return cancel(session, job, events=events)
    state, changes = JobState.FAILED, {"reason": reason}
    if retry is not None and row.attempts < retry.max_attempts:
        state, changes = JobState.QUEUED, {"reason": reason, **_delay_queueing(retry.delay(row.attempts))}
    return _end(session, job, state, "failed", changes=changes, reason=reason, events=events)


def hand_back(session: Session, job: Job, *, alone: str | None = None, events: Sequence[NewEvent] = ()) -> Job:
    """Return the job to the queue without counting the attempt. If cancellation was requested, cancel the job instead.

    Args:
        alone: reason why the job must no longer be trained together with others.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    if _lock_owned(session, job).cancel_requested is not None:
        return cancel(session, job, events=events)
    changes: Columns = {"attempts": jobs.c.attempts - 1, "ring_at": now()}
    if alone is not None:
        changes["gang"] = None
    return _end(session, job, JobState.QUEUED, "handed_back", changes=changes, reason=alone, events=events)


def hand_back_all(session: Session, reason: str) -> list[Job]:
    """Return all running jobs to the queue, or cancel those whose cancellation was requested, whoever runs them.

    No attempt is counted. It is for a copy of a registry, in which no worker runs.
    """
    rows = session.execute(sa.select(jobs).where(in_state(JobState.RUNNING)).order_by(jobs.c.number)).all()
    ended = []
    for row in rows:
        is_cancelled = row.cancel_requested is not None
        state, outcome = (JobState.CANCELLED, "cancelled") if is_cancelled else (JobState.QUEUED, "handed_back")
        changes: Columns = {} if is_cancelled else {"attempts": row.attempts - 1, "ring_at": now()}
        ended.append(_end(session, row, state, outcome, changes=changes, reason=reason, is_one_of_many=True))
    return ended


def set_aside(session: Session, job: Job, why: str, *, version: str, events: Sequence[NewEvent] = ()) -> Job:
    """Return a job that a version of Finch Hub cannot read to the queue, for workers of other versions.

    The attempt is not counted. If cancellation was requested, cancel the job instead.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    row = _lock_owned(session, job)
    if row.cancel_requested is not None:
        return cancel(session, job, events=events)
    known = row.set_aside if isinstance(row.set_aside, list) else []
    reason = f"finch-hub {version} cannot read this job: {why} (run a worker of another version, or cancel the job)"
    changes: Columns = {
        "attempts": jobs.c.attempts - 1,
        "set_aside": [*known, version],
        "reason": reason,
        "ring_at": now(),
    }
    return _end(session, job, JobState.QUEUED, "handed_back", changes=changes, reason=reason, events=events)


def pass_on(
    session: Session,
    job: Job,
    reason: str,
    *,
    policy: values.RetryPolicy,
    alone: Literal["wait", "retry", "fail"],
    events: Sequence[NewEvent] = (),
) -> Job:
    """Return a job that its worker cannot run to the queue, for other workers, without counting the attempt.

    The worker itself may claim the job again after a wait, which grows each time. If cancellation was requested, cancel
    the job instead.

    Args:
        alone: what happens if no other worker is left that may run the job: it waits for this one, the attempt counts
            and is retried by the policy, or the job fails. It fails only if each living worker passed it on.

    Raises:
        StaleFence: the attempt no longer owns the job.
    """
    if _lock_owned(session, job).cancel_requested is not None:
        return cancel(session, job, events=events)
    passed_on = sa.select(attempts.c.worker).where(attempts.c.job_id == job.id, attempts.c.not_before.is_not(None))
    if alone == "fail":  # others may have passed it on for another reason
        passed_on = passed_on.where(attempts.c.reason == reason)
    tried = session.scalars(passed_on).all()
    others = [
        worker
        for worker in workers.find(session)
        if worker.state == "active"
        and worker.id not in (job.worker, *tried)
        and (worker.remark is None or alone == "fail")
        and placement.can_run(worker, job.requirements)
        and not placement.list_unreadable(job, worker)
    ]
    if not others and alone == "fail":
        fix = "restore the artifact store from a backup, or submit the job again with its data"
        reason = f"{reason}: no worker that can run this job finds it in the store ({fix})"
        return fail(session, job, reason, events=events)
    if not others and alone == "retry":
        return fail(session, job, reason, retry=policy, events=events)
    wait = max(_LEAST_WAIT_SECONDS, policy.delay(tried.count(job.worker or "") + 1))
    text = f"worker {job.worker} cannot run this job now, so it is queued again and no attempt is counted"
    told = NewEvent(type="message", level="warn", message=text)
    changes: Columns = {
        "attempts": jobs.c.attempts - 1,
        "reason": f"worker {job.worker}: {reason}",
        "ring_at": now() if others else later(wait),
    }
    ended = _end(session, job, JobState.QUEUED, "handed_back", changes=changes, reason=reason, events=[*events, told])
    this = sa.and_(attempts.c.job_id == job.id, attempts.c.fence == job.fence)
    session.execute(sa.update(attempts).where(this).values(not_before=later(wait)))
    return ended


def is_passed_on(session: Session, job_id: str, worker: str) -> bool:
    """Return whether a worker leaves a job to others for now."""
    waits = sa.exists().where(attempts.c.job_id == job_id, attempts.c.worker == worker, is_ahead(attempts.c.not_before))
    return bool(session.scalar(sa.select(waits)))


def cancel(session: Session, job: Job, *, events: Sequence[NewEvent] = ()) -> Job:
    """Cancel a job whose cancellation was requested.

    Raises:
        StaleFence: the attempt no longer owns the job.
        Conflict: no cancellation was requested.
    """
    is_requested = jobs.c.cancel_requested.is_not(None)
    return _end(session, job, JobState.CANCELLED, "cancelled", is_requested, events=events)


def has_expired(after: float = 0.0) -> sa.ColumnElement[bool]:
    """Return the condition that a running job's lease has ended so many seconds ago, or cannot be a worker's.

    A clock that jumped, or someone's edit, may leave a lease that ends in years, or never.
    """
    return sa.or_(
        jobs.c.lease_until.is_(None),
        jobs.c.lease_until < once(later(-after)),
        jobs.c.lease_until > once(later(_LONGEST_LEASE_SECONDS)),
    )


def expire_leases(
    session: Session, policy: values.RetryPolicy, *, held: Collection[str] = (), limit: int = 100
) -> list[Job]:
    """End the attempts whose lease expired, and return their jobs, which are queued again, failed or cancelled.

    A job that cannot be ended is set aside for a while, so that it delays no other. Its dependents are settled later.

    Args:
        held: ids of jobs that the caller runs itself. After a sleep of its machine, it renews their leases instead.
    """
    rows = session.execute(
        sa.select(jobs)
        .where(in_state(JobState.RUNNING), has_expired(), ~one_of(jobs.c.id, held), ~settlements.is_set_aside())
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
        try:
            with settlements.isolate(session):
                ended.append(_end(session, row, state, "lost", changes=changes, reason=reason, is_one_of_many=True))
        except Exception as error:
            settlements.set_aside(session, row.id, error)
    return ended


# The statements of a usual attempt are built once, because building one takes ten times as long as running it.


@functools.cache
def _build_success() -> sa.Update:
    changes = {"result": sa.bindparam("job_result", type_=Json), "reason": None}
    return build_transition(JobState.SUCCEEDED, *_IS_OWNER, jobs.c.cancel_requested.is_(None), changes=changes)


_IS_OWNER = (
    jobs.c.id == sa.bindparam("owned_job"),
    jobs.c.fence == sa.bindparam("owner_fence"),
    # A failover of the database may lose a claim. Then the next claim has the same fence.
    jobs.c.worker.is_not_distinct_from(sa.bindparam("owner_worker", type_=sa.String())),
    jobs.c.claim_token.is_not_distinct_from(sa.bindparam("owner_token", type_=sa.String())),
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


def _describe_owner(job: Job | sa.Row[Any]) -> Columns:
    return {"owned_job": job.id, "owner_fence": job.fence, "owner_worker": job.worker, "owner_token": job.claim_token}


def _lock_owned(session: Session, job: Job | sa.Row[Any]) -> sa.Row[Any]:
    row = session.execute(_LOCK, _describe_owner(job)).one_or_none()
    if row is None:
        raise errors.StaleFence(job.id, job.fence)
    return row


def _delay_queueing(delay: float) -> Columns:
    return dict.fromkeys(("not_before", "ring_at"), later(delay))


def _end(
    session: Session,
    job: Job | sa.Row[Any],
    state: JobState,
    outcome: str,
    *where: sa.ColumnElement[bool],
    changes: Columns | None = None,
    reason: str | None = None,
    events: Sequence[NewEvent] = (),
    is_one_of_many: bool = False,
) -> Job:
    statement = build_transition(state, *_IS_OWNER, *where, changes=changes)
    row = execute_transition(session, statement, state, _describe_owner(job), events=events)
    if row is None:
        _lock_owned(session, job)
        raise errors.Conflict(f"cannot cancel job {job.id}: no cancellation was requested")
    has_dependents = settlements.end_attempt(session, row, outcome, reason)
    if state in FINAL and has_dependents:
        settle = settlements.settle_later if is_one_of_many else settlements.settle_now
        settle(session, row.id)
    return to_jobs(session, [row])[0]
