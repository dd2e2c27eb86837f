"""Status of the queue in numbers. Reading it costs the same, however many jobs wait or have ended.

No statement reads more than `MOST` rows of a partial index. So a number that is that large means "so many or more".
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.attempts import has_expired
from finch_hub.registry.claims import by_turn, rank
from finch_hub.registry.tables import attempts, jobs, settlements
from finch_hub.registry.transitions import in_state
from finch_hub.registry.types import LONGEST_WAIT_SECONDS, is_ahead, now, one_of
from finch_hub.specs.jobs import JobState
from finch_hub.specs.value import Value

MOST = 10_000
MOST_AHEAD = 1000
_MOST_GROUPS = 64  # of jobs with equal needs, and of jobs with equal priority
_FRONT_JOBS = 100

PriorityClass = Literal["high", "normal", "low"]
_CLASSES: dict[PriorityClass, tuple[int, int]] = {"high": (1, 2**31 - 1), "normal": (0, 0), "low": (-(2**31), -1)}


class QueueDepth(Value):
    """Number of queued jobs of one queue whose priority is above, equal to or below the default."""

    queue: str
    priority: PriorityClass
    jobs: int


class QueueStatus(Value):
    """Status of the queue at a moment of the database's clock.

    Attributes:
        queued: number of queued jobs, also those that wait until they may start again.
        depths: the queued jobs by queue and priority, of at most 64 groups with equal needs.
        waiting: number of jobs that wait for others.
        running: number of jobs that run.
        lost: ids of jobs whose leases have ended, and which no sweep has queued again.
        unsettled: number of jobs whose end could not be carried out.
        oldest: id of the job that could start and was submitted first, or came back to the queue first.
        oldest_seconds: time since then.
    """

    at: datetime
    queued: int
    depths: tuple[QueueDepth, ...]
    waiting: int
    running: int
    lost: tuple[str, ...]
    unsettled: int
    oldest: str | None = None
    oldest_seconds: float | None = None


def read(session: Session, *, lost_after: float = 0.0) -> QueueStatus:
    """Return the status of the queue.

    Args:
        lost_after: seconds since the end of its lease after which a job counts as lost.
    """
    at = session.execute(sa.select(now())).scalar_one()
    lost = (
        sa.select(jobs.c.id)
        .where(in_state(JobState.RUNNING), has_expired(lost_after))
        .order_by(jobs.c.number)
        .limit(MOST)
    )
    oldest = _find_oldest(session, at)
    return QueueStatus(
        at=at,
        queued=_count(session, jobs, in_state(JobState.QUEUED)),
        depths=_measure_depths(session),
        waiting=_count(session, jobs, in_state(JobState.WAITING)),
        running=_count(session, jobs, in_state(JobState.RUNNING)),
        lost=tuple(session.scalars(lost)),
        unsettled=_count(session, settlements, settlements.c.trouble.is_not(None)),
        oldest=None if oldest is None else oldest[1],
        oldest_seconds=None if oldest is None else max(0.0, (at - oldest[0]).total_seconds()),
    )


def count_ahead(session: Session, job_id: str) -> int:
    """Return the number of queued jobs that come before a queued job in its queue, of the first 1,000 of all queues."""
    return session.scalar(_COUNT_AHEAD, {"of_job": job_id}) or 0


def count_running(session: Session) -> int:
    """Return the number of running jobs, at most 10,000."""
    return _count(session, jobs, in_state(JobState.RUNNING))


def find_start(session: Session, job_id: str) -> datetime | None:
    """Return when the wait of a queued job ends after a failed attempt, None if it waits for a slot only."""
    start = session.scalar(sa.select(jobs.c.not_before).where(jobs.c.id == job_id, is_ahead(jobs.c.not_before)))
    return start if isinstance(start, datetime) else None


def _count(session: Session, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    some = sa.select(sa.literal(1)).select_from(table).where(where).limit(MOST).subquery()
    return session.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def _measure_depths(session: Session) -> tuple[QueueDepth, ...]:
    """Count the jobs of each group with equal needs, which are of one queue. An index leads from group to group."""
    depths = collections.Counter[tuple[str, PriorityClass]]()
    needs = ""
    for _ in range(_MOST_GROUPS):
        group = session.execute(_NEXT_GROUP, {"last_needs": needs}).one_or_none()
        if group is None:
            break
        needs = group.needs
        for name, (lowest, highest) in _CLASSES.items():
            parameters = {"wanted_needs": needs, "lowest": lowest, "highest": highest}
            depths[group.queue, name] += session.execute(_COUNT_GROUP, parameters).scalar_one()
    return tuple(QueueDepth(queue=queue, priority=name, jobs=n) for (queue, name), n in sorted(depths.items()) if n)


def _find_oldest(session: Session, at: datetime) -> tuple[datetime, str] | None:
    """Return since when a job has been able to start, and its id. It looks at the front jobs of each priority."""
    found, below = [], sa.bindparam("below", type_=sa.Integer())
    front = (
        sa.select(jobs.c.id, jobs.c.priority, jobs.c.created_at, jobs.c.not_before)
        .where(in_state(JobState.QUEUED), jobs.c.priority < below)
        .order_by(*by_turn())
        .limit(_FRONT_JOBS)
    )
    lowest, latest = 2**31 - 1, at + timedelta(seconds=LONGEST_WAIT_SECONDS)
    for _ in range(_MOST_GROUPS):
        rows = session.execute(front, {"below": lowest}).all()
        returns = _find_returns(session, [row.id for row in rows])
        for row in rows:
            known = (row.created_at, returns.get(row.id), row.not_before)
            moments = [moment for moment in known if isinstance(moment, datetime)]
            since = max((moment for moment in moments if moment <= latest), default=at)
            if since <= at:
                found.append((since, row.id))
        if len(rows) < _FRONT_JOBS:
            break
        lowest = rows[-1].priority
    return min(found, default=None)


def _find_returns(session: Session, job_ids: Sequence[str]) -> dict[str, datetime | None]:
    """Return when the last attempts of jobs ended."""
    last = sa.select(attempts.c.job_id, sa.func.max(attempts.c.ended_at).label("at"))
    rows = session.execute(last.where(one_of(attempts.c.job_id, job_ids)).group_by(attempts.c.job_id))
    return {row.job_id: row.at for row in rows}


_NEXT_GROUP = (
    sa.select(jobs.c.needs, jobs.c.queue)
    .where(in_state(JobState.QUEUED), jobs.c.needs > sa.bindparam("last_needs", type_=sa.String()))
    .order_by(jobs.c.needs)  # only one index has this order, so that it is used
    .limit(1)
)
_wanted = sa.bindparam("wanted_needs", type_=sa.String())
_priorities = sa.bindparam("lowest", type_=sa.Integer()), sa.bindparam("highest", type_=sa.Integer())
_group = (
    sa.select(sa.literal(1))
    .where(in_state(JobState.QUEUED), jobs.c.needs.between(_wanted, _wanted), jobs.c.priority.between(*_priorities))
    .order_by(jobs.c.needs, *by_turn())  # as the index is, for PostgreSQL to choose it
    .limit(MOST)
    .subquery()
)
_COUNT_GROUP = sa.select(sa.func.count()).select_from(_group)
_own, _front = jobs.alias("own"), jobs.alias("front_job")
_first = (
    sa.select(_front.c.priority, _front.c.turn, _front.c.owner, _front.c.number, _front.c.queue)
    .where(in_state(JobState.QUEUED, of=_front))
    .order_by(*by_turn(_front))
    .limit(MOST_AHEAD)
    .subquery()
)
_COUNT_AHEAD = (
    sa.select(sa.func.count())
    .select_from(_first)
    .join(_own, sa.and_(_own.c.queue == _first.c.queue, rank(_first) < rank(_own)))
    .where(_own.c.id == sa.bindparam("of_job", type_=sa.String()))
)
