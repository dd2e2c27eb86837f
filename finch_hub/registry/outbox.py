"""Queries for queued jobs that need a wake-up message.

The transaction that queues a job also sets `ring_at`, and a claim clears it. So the job's row is its outbox entry, and
a lost message or a killed sender only delays the job. A second message for the same job does no harm. The dispatcher of
the workers sends the messages.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import in_state
from finch_hub.registry.types import later, now, once
from finch_hub.specs.jobs import JobState

_HAS_DUE = sa.select(sa.exists().where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now())))
_HAS_QUEUED = sa.select(sa.exists().where(in_state(JobState.QUEUED)))
_SELECT_DUE = (
    sa.select(jobs.c.number, jobs.c.id, jobs.c.queue)
    .where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now()))
    .order_by(jobs.c.ring_at)
    .limit(sa.bindparam("max_jobs", type_=sa.Integer()))
    .with_for_update(skip_locked=True)
)


def has_due(session: Session) -> bool:
    """Return whether any job needs a message, without taking a lock."""
    return bool(session.scalar(_HAS_DUE))


def has_queued(session: Session) -> bool:
    """Return whether any job is queued, whatever became of its message."""
    return bool(session.scalar(_HAS_QUEUED))


def take_due(session: Session, *, limit: int = 100, again_seconds: float = 60.0) -> dict[str, str]:
    """Return the queue of each queued job that needs a message, by job id, longest due first.

    Send the messages after the commit, and write nothing to these jobs afterwards: the woken slot skips locked rows.

    Args:
        again_seconds: seconds after which a job that is still queued is due again.
    """
    rows = session.execute(_SELECT_DUE, {"max_jobs": limit}).all()
    if rows:
        numbers = [row.number for row in rows]
        session.execute(sa.update(jobs).where(jobs.c.number.in_(numbers)).values(ring_at=later(again_seconds)))
    return {row.id: row.queue for row in rows}


def postpone(session: Session, job_ids: Collection[str], *, seconds: float = 10.0) -> None:
    """Make jobs due again after `seconds`, because their messages could not be sent."""
    session.execute(
        sa.update(jobs).where(jobs.c.id.in_(job_ids), in_state(JobState.QUEUED)).values(ring_at=later(seconds))
    )
