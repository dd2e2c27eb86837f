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
from finch_hub.registry.transitions import (
    JOB_COLUMNS,
    build_transition,
    execute_transition,
    in_state,
    in_state_unindexed,
    to_jobs,
)
from finch_hub.registry.types import Columns, Json, later, now, subset
from finch_hub.registry.values import Capabilities
from finch_hub.specs.jobs import Job, JobState

# A job whose base is loaded may overtake jobs within this window, but none that has waited longer than this time.
WARM_WINDOW = 64
WARM_PATIENCE_SECONDS = 60.0
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
    statement = _claim_best(*_count_parameters(capabilities), prefer_warm=warm_base is not None)
    for _ in range(_MAX_SET_ASIDE):
        job = _execute(session, statement, worker, lease_seconds, parameters, token)
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
        "slot_labels": list(capabilities.labels),
        "slot_versions": [capabilities.version],
    }


def _count_parameters(capabilities: Capabilities) -> tuple[int, int | None]:
    """Return the numbers of queues and kinds in the conditions of a slot."""
    return len(capabilities.queues), None if capabilities.kinds is None else len(capabilities.kinds)


def _fits_slot(num_queues: int, num_kinds: int | None) -> list[sa.ColumnElement[bool]]:
    kinds: list[sa.BindParameter[str]] = [sa.bindparam(f"slot_kind_{number}") for number in range(num_kinds or 0)]
    return [
        *([] if num_kinds is None else [jobs.c.kind.in_(kinds)]),
        in_state(JobState.QUEUED),
        sa.or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now()),
        jobs.c.queue.in_([sa.bindparam(f"slot_queue_{number}") for number in range(num_queues)]),
        sa.or_(jobs.c.device == "any", jobs.c.device == sa.bindparam("slot_device")),
        jobs.c.memory_bytes <= sa.bindparam("slot_memory"),
        subset(jobs.c.labels, sa.bindparam("slot_labels", type_=Json)),
        sa.or_(jobs.c.set_aside.is_(None), ~subset(sa.bindparam("slot_versions", type_=Json), jobs.c.set_aside)),
    ]


# The statements are cached, because building one takes ten times as long as running it.

_ADD_ATTEMPT = sa.insert(attempt_rows)


@functools.cache
def _claim_best(num_queues: int, num_kinds: int | None, *, prefer_warm: bool) -> sa.Update:
    return _claim_number((_select_warmest if prefer_warm else _select_first)(_fits_slot(num_queues, num_kinds)))


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


def _select_first(conditions: list[sa.ColumnElement[bool]]) -> sa.ScalarSelect[int]:
    in_order = sa.select(jobs.c.number).where(*conditions).order_by(jobs.c.priority.desc(), jobs.c.number)
    return in_order.limit(1).with_for_update(skip_locked=True).scalar_subquery()


def _select_warmest(conditions: list[sa.ColumnElement[bool]]) -> sa.ScalarSelect[int]:
    is_warm = jobs.c.base_key == sa.bindparam("warm_base")
    has_waited = jobs.c.created_at < later(-WARM_PATIENCE_SECONDS)
    window = (
        sa.select(jobs.c.number, jobs.c.priority, sa.case((sa.or_(is_warm, has_waited), 0), else_=1).label("cold"))
        .where(*conditions)
        .order_by(jobs.c.priority.desc(), jobs.c.number)
        .limit(WARM_WINDOW)
        .subquery("front")
    )
    # The row is locked outside the window: a lock within it would hide all of the window's jobs from other claimers.
    best = jobs.alias("best")
    return (
        sa.select(best.c.number)
        .join(window, window.c.number == best.c.number)
        .where(
            in_state_unindexed(JobState.QUEUED, of=best),
            sa.or_(best.c.not_before.is_(None), best.c.not_before <= now()),
        )
        .order_by(window.c.priority.desc(), window.c.cold, window.c.number)
        .limit(1)
        .with_for_update(of=best, skip_locked=True)
        .scalar_subquery()
    )
