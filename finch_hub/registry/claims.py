"""Claims: how a worker takes queued jobs.

Each claim raises the fence of its job by one, and writes a random token. The claimer's writes carry both, and the
registry refuses them once another claim owns the job. So a worker that was paused, disconnected or lost cannot change
the work of its successor, even if a failover of the database lost the claim and the next one has the same fence.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import attempts, owner_limits, settlements
from finch_hub.registry.tables import attempts as attempt_rows
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import (
    JOB_COLUMNS,
    build_transition,
    execute_transition,
    in_state,
    in_state_of_owner,
    in_state_unindexed,
    to_jobs,
)
from finch_hub.registry.types import Columns, Json, is_ahead, is_stored_as, later, now, once, subset
from finch_hub.registry.values import Capabilities
from finch_hub.specs.jobs import Job, JobState

# A claim looks at the front of the queue first. There, a job whose base is loaded may overtake others whose turn is
# earlier, but none that has waited longer than this time.
FRONT_JOBS = 64
WARM_PATIENCE_SECONDS = 60.0
_MEMORY_SLACK = 1.25  # jobs with equal needs differ in memory by less than this factor; see `jobs.hash_needs`
# A claim adds one to these numbers of its job, which must still be readable. Otherwise the claim fails for all jobs.
_GREATEST = {"fence": 2**31 - 2, "attempts": 2**31 - 2, "last_seq": 2**62}
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
    """Claim the best queued job that fits the slot, by priority, then loaded base, then turn (see `turns`).

    A job that this version cannot read stays queued for workers of other versions, and is passed over from then on. An
    owner with as many running jobs as the slot allows is passed over, too.

    Args:
        lease_seconds: duration of the claim unless it is renewed.
        warm_base: `base_key` of the base that the slot has loaded.
        token: random text for `find_claimed`; None makes one.
    """
    for _ in range(_MAX_SET_ASIDE):
        try:
            with _undo_beyond_limit(session, capabilities):
                job = _claim_best(session, worker, lease_seconds, capabilities, warm_base, token)
                if job is not None and job.unreadable is None:
                    _refuse_beyond_limit(session, job, capabilities)
        except _OwnerIsFull:
            continue  # another transaction was first, and the next statement sees its job
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
        sa.select(jobs.c.number, jobs.c.memory_bytes, jobs.c.owner)
        .where(*_fits_slot(_Shape.of(capabilities)), jobs.c.gang == same_group)
        .order_by(*by_turn())
        .limit(limit)
        .with_for_update(skip_locked=True),
        _describe_slot(capabilities),
    ).all()
    companions = []
    free_bytes = capabilities.memory_bytes - leader.requirements.memory_bytes
    for row in rows:
        if row.memory_bytes > free_bytes or not _may_run_more(session, row.owner, capabilities):
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
    fits = _fits_slot(_Shape.of(capabilities))
    return bool(session.scalar(sa.select(sa.exists().where(*fits)), _describe_slot(capabilities)))


class _OwnerIsFull(Exception):
    """Other transactions claimed jobs of the same owner at the same time."""


@contextlib.contextmanager
def _undo_beyond_limit(session: Session, capabilities: Capabilities) -> Iterator[None]:
    """Open a savepoint if a claim may turn out to be one too many, which on SQLite it never does."""
    if capabilities.owner_running is None or session.get_bind().dialect.name == "sqlite":
        yield
        return
    with settlements.isolate(session):
        yield


def _refuse_beyond_limit(session: Session, job: Job, capabilities: Capabilities) -> None:
    limit = capabilities.owner_running
    if limit is None or session.get_bind().dialect.name == "sqlite":
        return
    owner_limits.hold_owner(session, job.owner, "running")
    if owner_limits.count_running(session, job.owner) > limit:
        raise _OwnerIsFull


def _may_run_more(session: Session, owner: str, capabilities: Capabilities) -> bool:
    """Return whether a companion of an owner may run. It is not worth waiting for other claims of that owner."""
    limit = capabilities.owner_running
    if limit is None:
        return True
    is_held = owner_limits.hold_owner(session, owner, "running", wait=False)
    return is_held and owner_limits.count_running(session, owner) < limit


def _claim_best(
    session: Session,
    worker: str,
    lease_seconds: float,
    capabilities: Capabilities,
    warm_base: str | None,
    token: str | None,
) -> Job | None:
    shape, parameters = _Shape.of(capabilities), _describe_slot(capabilities)
    statement = _claim_in_front(shape, has_base=warm_base is not None)
    job = _execute(session, statement, worker, lease_seconds, parameters | {"warm_base": warm_base}, token)
    if job is None and (number := _find_behind(session, capabilities)) is not None:
        job = _execute(session, _claim_number(), worker, lease_seconds, {"wanted_number": number}, token)
    return job


def _find_behind(session: Session, capabilities: Capabilities) -> int | None:
    """Return the number of the best job that fits the slot and is not in front, None if there is none.

    Thousands of jobs in front may fit no worker. So this looks at one job of each group with equal needs, and then at
    the groups that fit. Thousands may be of owners at their limit, so it then looks at one job of each owner.
    """
    if session.scalar(_HAS_MORE, {"front_jobs": FRONT_JOBS}) is None:
        return None
    shape, parameters = _Shape.of(capabilities), _describe_slot(capabilities)
    select_first = _select_first_of_owners if shape.has_limit else _select_first_with
    candidates = [
        (-row.priority, row.turn, row.owner, row.number)
        for needs in session.scalars(_select_fitting_needs(shape), parameters).all()
        for row in session.execute(select_first(shape), parameters | {"wanted_needs": needs})
    ]
    return min(candidates)[-1] if candidates else None


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


class _Shape(NamedTuple):
    """What the statements for a slot depend on: the numbers of parameters, and whether owners have a limit."""

    num_queues: int
    num_kinds: int | None
    has_limit: bool

    @classmethod
    def of(cls, capabilities: Capabilities) -> Self:
        num_kinds = None if capabilities.kinds is None else len(capabilities.kinds)
        return cls(len(capabilities.queues), num_kinds, capabilities.owner_running is not None)


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
        "owner_running": capabilities.owner_running,
    }


def _fits_slot(
    shape: _Shape, of: sa.FromClause = jobs, *, is_queued: sa.ColumnElement[bool] | None = None
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a job fits the slot. `is_queued` is the condition that suits another index."""
    is_passed_on = sa.exists().where(
        attempt_rows.c.job_id == of.c.id,
        attempt_rows.c.worker == sa.bindparam("slot_worker", type_=sa.String()),
        is_ahead(attempt_rows.c.not_before),
    )
    return [
        in_state(JobState.QUEUED, of=of) if is_queued is None else is_queued,
        sa.or_(of.c.not_before.is_(None), ~is_ahead(of.c.not_before)),
        sa.or_(of.c.set_aside.is_(None), ~subset(sa.bindparam("slot_versions", type_=Json), of.c.set_aside)),
        of.c.memory_bytes <= sa.bindparam("slot_memory"),
        *(of.c[name] < sa.literal_column(str(greatest)) for name, greatest in _GREATEST.items()),
        *(is_stored_as("integer", of.c[name]) for name in _GREATEST),
        is_stored_as("text", of.c.id),
        sa.or_(of.c.fence == 0, ~is_passed_on.correlate(of)),  # most jobs have had no attempt
        *_fits_group(shape, of),
        *([~_is_of_full_owner(of)] if shape.has_limit else []),
    ]


def _is_of_full_owner(of: sa.FromClause) -> sa.ColumnElement[bool]:
    return of.c.owner.in_(owner_limits.list_full_owners(sa.bindparam("owner_running", type_=sa.BigInteger())))


def _fits_group(shape: _Shape, of: sa.FromClause) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that jobs with equal needs meet together."""
    kinds: list[sa.BindParameter[str]] = [sa.bindparam(f"slot_kind_{number}") for number in range(shape.num_kinds or 0)]
    return [
        *([] if shape.num_kinds is None else [of.c.kind.in_(kinds)]),
        of.c.queue.in_([sa.bindparam(f"slot_queue_{number}") for number in range(shape.num_queues)]),
        sa.or_(of.c.device == "any", of.c.device == sa.bindparam("slot_device")),
        subset(of.c.labels, sa.bindparam("slot_labels", type_=Json)),
    ]


# The statements are cached, because building one takes ten times as long as running it.

_ADD_ATTEMPT = sa.insert(attempt_rows)


def by_turn(of: sa.FromClause = jobs) -> list[sa.ColumnElement[Any]]:
    """Return the order of claims, which is that of indexes."""
    return [of.c.priority.desc(), of.c.turn, of.c.owner, of.c.number]


def rank(of: sa.FromClause) -> sa.Tuple:
    """Return what is less for a job that is claimed earlier."""
    return sa.tuple_(-of.c.priority, of.c.turn, of.c.owner, of.c.number)


# Without an order, any index of queued jobs serves it.
_HAS_MORE = (
    sa.select(sa.true())
    .where(in_state(JobState.QUEUED))
    .offset(sa.bindparam("front_jobs", type_=sa.Integer()))
    .limit(1)
)


@functools.cache
def _claim_in_front(shape: _Shape, *, has_base: bool) -> sa.Update:
    # The row is locked outside the front: a lock within it would hide all of the front's jobs from other claimers.
    best, front = jobs.alias("best"), _select_front()
    fits = _fits_slot(shape, best, is_queued=in_state_unindexed(JobState.QUEUED, of=best))
    query = sa.select(best.c.number).join(front, front.c.number == best.c.number).where(*fits)
    order = by_turn(best)
    if has_base:
        impatient = _select_impatient(shape)
        query = query.outerjoin(impatient, sa.true())
        is_first = sa.or_(impatient.c.number.is_(None), rank(best) <= rank(impatient))
        is_preferred = sa.and_(best.c.base_key == sa.bindparam("warm_base"), is_first)
        order.insert(1, sa.case((is_preferred, 0), else_=1))
    best_number = query.order_by(*order).limit(1).with_for_update(of=best, skip_locked=True).scalar_subquery()
    return _claim_number(best_number)


def _select_front() -> sa.Subquery:
    return (
        sa.select(jobs.c.number)
        .where(in_state(JobState.QUEUED))
        .order_by(*by_turn())
        .limit(sa.bindparam("front_jobs", type_=sa.Integer()))
        .subquery()
    )


def _select_impatient(shape: _Shape) -> sa.Subquery:
    """Return the query for the first job in front that fits the slot and that no loaded base may overtake any more."""
    old, front = jobs.alias("old"), _select_front()
    fits = _fits_slot(shape, old, is_queued=in_state_unindexed(JobState.QUEUED, of=old))
    return (
        sa.select(old.c.priority, old.c.turn, old.c.owner, old.c.number)
        .join(front, front.c.number == old.c.number)
        .where(old.c.created_at < once(later(-WARM_PATIENCE_SECONDS)), *fits)
        .order_by(*by_turn(old))
        .limit(1)
        .subquery("impatient")
    )


@functools.cache
def _select_fitting_needs(shape: _Shape) -> sa.Select[tuple[str]]:
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
    fits = sa.exists().where(is_near, *_fits_group(shape, sample))
    return sa.select(needs.c.needs).where(fits)


@functools.cache
def _select_first_with(shape: _Shape) -> sa.Select[tuple[int, int, str, int]]:
    """Return the query for the best job with certain needs that fits the slot. It locks the job."""
    wanted = sa.bindparam("wanted_needs", type_=sa.String())
    return (
        sa.select(jobs.c.priority, jobs.c.turn, jobs.c.owner, jobs.c.number)
        .where(jobs.c.needs.between(wanted, wanted), *_fits_slot(shape))
        .order_by(jobs.c.needs, *by_turn())  # as the index is, for PostgreSQL to choose it
        .limit(1)
        .with_for_update(skip_locked=True)
    )


@functools.cache
def _select_first_of_owners(shape: _Shape) -> sa.Select[tuple[int, int, str, int]]:
    """Return the same query for owners with a limit. It jumps from each owner to the next in an index."""
    following, own = jobs.alias("following"), jobs.alias("own")
    owners = sa.select(sa.func.min(jobs.c.owner).label("owner")).where(jobs.c.finished_at.is_(None)).cte(recursive=True)
    next_owner = sa.select(sa.func.min(following.c.owner)).where(
        following.c.finished_at.is_(None), following.c.owner > owners.c.owner
    )
    owners = owners.union_all(sa.select(next_owner.scalar_subquery()).where(owners.c.owner.is_not(None)))
    is_queued = in_state_of_owner(JobState.QUEUED, owners.c.owner, own)
    fits = _fits_slot(shape._replace(has_limit=False), own, is_queued=is_queued)
    first_number = (
        sa.select(own.c.number)
        .where(own.c.needs == sa.bindparam("wanted_needs", type_=sa.String()), *fits)
        .order_by(own.c.priority.desc(), own.c.turn, own.c.number)
        .limit(1)
        .correlate(owners)
        .scalar_subquery()
    )
    numbers = sa.select(first_number).where(owners.c.owner.is_not(None), ~_is_of_full_owner(owners))
    return (
        sa.select(jobs.c.priority, jobs.c.turn, jobs.c.owner, jobs.c.number)
        .where(jobs.c.number.in_(numbers), in_state_unindexed(JobState.QUEUED))
        .order_by(*by_turn())
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
