"""Claims: how a worker takes queued jobs.

Each claim raises the fence of its job by one, and writes a random token. The claimer's writes carry both, and the
registry refuses them once another claim owns the job. So a worker that was paused, disconnected or lost cannot change
the work of its successor, even if a failover of the database lost the claim and the next one has the same fence.
"""

from __future__ import annotations

import functools
import secrets

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import attempts
from finch_hub.registry.tables import attempts as attempt_rows
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import JOB_COLUMNS, build_transition, execute_transition, in_state, to_jobs
from finch_hub.registry.types import Columns, Json, later, now, subset
from finch_hub.registry.values import Capabilities
from finch_hub.specs.jobs import Job, JobState

# A claim looks at the front of the queue first. There, a job whose base is loaded may overtake others, but none that
# has waited longer than this time.
FRONT_JOBS = 64
WARM_PATIENCE_SECONDS = 60.0
_MEMORY_SLACK = 1.25  # jobs with equal needs differ in memory by less than this factor; see `jobs.hash_needs`
_MAX_SET_ASIDE = 100  # jobs in one transaction; on SQLite it holds the write lock


def claim(
    session: Session,
    *,
    worker: str,
    lease_seconds: float,
    capabilities: Capabilities,
    warm_base: str | None = None,
    token: str | None = None,
) -> Job | None:
    """Claim the best queued job that fits the slot, by priority, then loaded base, then age.

    A job that this version cannot read stays queued for workers of other versions, and is passed over from then on.

    Args:
        lease_seconds: duration of the claim unless it is renewed.
        warm_base: `base_key` of the base that the slot has loaded.
        token: random text for `find_claimed`; None makes one.
    """
    parameters = _describe_slot(capabilities) | {"warm_base": warm_base}
    counts = _count_parameters(capabilities)
    for _ in range(_MAX_SET_ASIDE):
        job = _execute(session, _claim_in_front(*counts), worker, lease_seconds, parameters, token)
        if job is None and (number := _find_behind(session, capabilities)) is not None:
            job = _execute(session, _claim_number(), worker, lease_seconds, {"wanted_number": number}, token)
        if job is None or job.unreadable is None:
            return job
        attempts.set_aside(session, job, job.unreadable, version=capabilities.version)
    return None


def claim_companions(
    session: Session,
    leader: Job,
    *,
    worker: str,
    lease_seconds: float,
    capabilities: Capabilities,
    limit: int,
    token: str | None = None,
) -> list[Job]:
    """Claim queued jobs that can be trained in one step with a job that was just claimed.

    All of them must allow it (`Requirements.together`), and all must fit into the slot's memory at once.

    Args:
        token: random text for `find_claimed`; None makes one.
    """
    if not leader.requirements.together:
        return []
    same_group = sa.select(jobs.c.gang).where(jobs.c.id == leader.id).scalar_subquery()
    rows = session.execute(
        sa.select(jobs.c.number, jobs.c.memory_bytes)
        .where(*_fits_slot(*_count_parameters(capabilities)), jobs.c.gang == same_group)
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(limit)
        .with_for_update(skip_locked=True),
        _describe_slot(capabilities),
    ).all()
    companions = []
    free_bytes = capabilities.memory_bytes - leader.requirements.memory_bytes
    for row in rows:
        if row.memory_bytes > free_bytes:
            continue
        job = _execute(session, _claim_number(), worker, lease_seconds, {"wanted_number": row.number}, token)
        if job is not None and job.unreadable is not None:
            attempts.set_aside(session, job, job.unreadable, version=capabilities.version)
        elif job is not None:
            free_bytes -= row.memory_bytes
            companions.append(job)
    return companions


def find_claimed(session: Session, token: str) -> list[Job]:
    """Return the jobs that run under a claim with this token.

    After a commit whose outcome is unknown, this tells what the transaction claimed.
    """
    rows = session.execute(
        sa.select(*JOB_COLUMNS).where(in_state(JobState.RUNNING), jobs.c.claim_token == token).order_by(jobs.c.number)
    ).all()
    return to_jobs(session, rows)


def has_fitting(session: Session, capabilities: Capabilities) -> bool:
    """Return whether any queued job fits the slot."""
    fits = _fits_slot(*_count_parameters(capabilities))
    return bool(session.scalar(sa.select(sa.exists().where(*fits)), _describe_slot(capabilities)))


def _find_behind(session: Session, capabilities: Capabilities) -> int | None:
    """Return the number of the best job that fits the slot and is not in front, None if there is none.

    Thousands of jobs in front may fit no worker. So this looks at one job of each group with equal needs, and then at
    the groups that fit.
    """
    if session.scalar(_HAS_MORE, {"front_jobs": FRONT_JOBS}) is None:
        return None
    counts, parameters = _count_parameters(capabilities), _describe_slot(capabilities)
    candidates = [
        (-row.priority, row.number)
        for needs in session.scalars(_select_fitting_needs(*counts), parameters).all()
        for row in session.execute(_select_first_with(*counts), parameters | {"wanted_needs": needs})
    ]
    return min(candidates)[1] if candidates else None


def _execute(
    session: Session,
    statement: sa.Update,
    worker: str,
    lease_seconds: float,
    parameters: Columns,
    token: str | None = None,
) -> Job | None:
    claim = {"claimer": worker, "lease_seconds": lease_seconds, "new_token": token or secrets.token_hex(8)}
    parameters = parameters | claim
    row = execute_transition(session, statement, JobState.RUNNING, parameters, data={"worker": worker})
    if row is None:
        return None
    session.execute(_ADD_ATTEMPT, {"job_id": row.id, "fence": row.fence, "worker": worker})
    return to_jobs(session, [row])[0]


def _describe_slot(capabilities: Capabilities) -> Columns:
    return {
        **{f"slot_queue_{number}": queue for number, queue in enumerate(capabilities.queues)},
        **{f"slot_kind_{number}": kind for number, kind in enumerate(capabilities.kinds or ())},
        "slot_device": capabilities.device,
        "slot_memory": capabilities.memory_bytes,
        "front_jobs": FRONT_JOBS,
        "slot_labels": list(capabilities.labels),
        "slot_versions": [capabilities.version],
        "slot_worker": capabilities.worker,
    }


def _count_parameters(capabilities: Capabilities) -> tuple[int, int | None]:
    """Return the numbers of queues and kinds in the conditions of a slot."""
    return len(capabilities.queues), None if capabilities.kinds is None else len(capabilities.kinds)


def _fits_slot(num_queues: int, num_kinds: int | None, of: sa.FromClause = jobs) -> list[sa.ColumnElement[bool]]:
    is_passed_on = sa.exists().where(
        attempt_rows.c.job_id == of.c.id,
        attempt_rows.c.worker == sa.bindparam("slot_worker", type_=sa.String()),
        attempt_rows.c.not_before > now(),
    )
    return [
        in_state(JobState.QUEUED, of=of),
        sa.or_(of.c.not_before.is_(None), of.c.not_before <= now()),
        sa.or_(of.c.set_aside.is_(None), ~subset(sa.bindparam("slot_versions", type_=Json), of.c.set_aside)),
        of.c.memory_bytes <= sa.bindparam("slot_memory"),
        sa.or_(of.c.fence == 0, ~is_passed_on.correlate(of)),  # most jobs have had no attempt
        *_fits_group(num_queues, num_kinds, of),
    ]


def _fits_group(num_queues: int, num_kinds: int | None, of: sa.FromClause) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that jobs with equal needs meet together."""
    kinds: list[sa.BindParameter[str]] = [sa.bindparam(f"slot_kind_{number}") for number in range(num_kinds or 0)]
    return [
        *([] if num_kinds is None else [of.c.kind.in_(kinds)]),
        of.c.queue.in_([sa.bindparam(f"slot_queue_{number}") for number in range(num_queues)]),
        sa.or_(of.c.device == "any", of.c.device == sa.bindparam("slot_device")),
        subset(of.c.labels, sa.bindparam("slot_labels", type_=Json)),
    ]


# The statements are cached, because building one takes ten times as long as running it.

_ADD_ATTEMPT = sa.insert(attempt_rows)


_HAS_MORE = (
    sa.select(jobs.c.number)
    .where(in_state(JobState.QUEUED))
    .order_by(jobs.c.priority.desc(), jobs.c.number)
    .offset(sa.bindparam("front_jobs", type_=sa.Integer()))
    .limit(1)
)


@functools.cache
def _claim_in_front(num_queues: int, num_kinds: int | None) -> sa.Update:
    front = (
        sa.select(jobs.c.number)
        .where(in_state(JobState.QUEUED))
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(sa.bindparam("front_jobs", type_=sa.Integer()))
        .subquery("front")
    )
    # The row is locked outside the front: a lock within it would hide all of the front's jobs from other claimers.
    best = jobs.alias("best")
    goes_first = sa.or_(best.c.base_key == sa.bindparam("warm_base"), best.c.created_at < later(-WARM_PATIENCE_SECONDS))
    return _claim_number(
        sa.select(best.c.number)
        .join(front, front.c.number == best.c.number)
        .where(*_fits_slot(num_queues, num_kinds, best))
        .order_by(best.c.priority.desc(), sa.case((goes_first, 0), else_=1), best.c.number)
        .limit(1)
        .with_for_update(of=best, skip_locked=True)
        .scalar_subquery()
    )


@functools.cache
def _select_fitting_needs(num_queues: int, num_kinds: int | None) -> sa.Select[tuple[str]]:
    """Return the query for the needs of queued jobs that fit the slot. It jumps from each to the next in an index."""
    following = jobs.alias("following")
    needs = sa.select(sa.func.min(jobs.c.needs).label("needs")).where(in_state(JobState.QUEUED)).cte(recursive=True)
    next_needs = (
        sa.select(sa.func.min(following.c.needs))
        .where(in_state(JobState.QUEUED, of=following), following.c.needs > needs.c.needs)
        .scalar_subquery()
    )
    needs = needs.union_all(sa.select(next_needs).where(needs.c.needs.is_not(None)))
    any_job = jobs.alias("any_job")
    sample = (
        sa.select(any_job)
        # The first job with at least these needs has these. Only one index has this order, so that it is used.
        .where(in_state(JobState.QUEUED, of=any_job), any_job.c.needs >= needs.c.needs)
        .order_by(any_job.c.needs)
        .limit(1)
        .correlate(needs)
        .subquery("sample")
    )
    is_near = sample.c.memory_bytes <= _MEMORY_SLACK * sa.bindparam("slot_memory", type_=sa.BigInteger())
    fits = sa.exists().where(is_near, *_fits_group(num_queues, num_kinds, sample))
    return sa.select(needs.c.needs).where(fits)


@functools.cache
def _select_first_with(num_queues: int, num_kinds: int | None) -> sa.Select[tuple[int, int]]:
    """Return the query for the best job with certain needs that fits the slot. It locks the job."""
    wanted = sa.bindparam("wanted_needs", type_=sa.String())
    return (
        sa.select(jobs.c.priority, jobs.c.number)
        .where(jobs.c.needs.between(wanted, wanted), *_fits_slot(num_queues, num_kinds))
        .order_by(jobs.c.needs, jobs.c.priority.desc(), jobs.c.number)  # as the index is, for PostgreSQL to choose it
        .limit(1)
        .with_for_update(skip_locked=True)
    )


@functools.cache
def _claim_number(number: sa.ScalarSelect[int] | None = None) -> sa.Update:
    changes = {
        "fence": jobs.c.fence + 1,
        "attempts": jobs.c.attempts + 1,
        "worker": sa.bindparam("claimer"),
        "claim_token": sa.bindparam("new_token"),
        "lease_until": later(sa.bindparam("lease_seconds", type_=sa.Float())),
        "started_at": sa.func.coalesce(jobs.c.started_at, now()),
        "not_before": None,
    }
    wanted = sa.bindparam("wanted_number", type_=sa.BigInteger()) if number is None else number
    return build_transition(JobState.RUNNING, jobs.c.number == wanted, changes=changes)
