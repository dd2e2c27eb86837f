"""For which queued jobs the bell is to be rung.

A queued row is its own outbox entry: `ring_at` is written in the transaction that queues the job, and goes when a
worker claims it. Nothing is lost with a message, nor with whoever should have sent it; ringing twice does no harm.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.transitions import in_state, jobs
from finch_hub.registry.types import later, now, once
from finch_hub.specs.jobs import JobState

_ANY_OVERDUE = sa.select(sa.exists().where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now())))
_OVERDUE = (
    sa.select(jobs.c.number, jobs.c.id, jobs.c.queue)
    .where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now()))
    .order_by(jobs.c.ring_at)
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .with_for_update(skip_locked=True)
)


def any_due(session: Session) -> bool:
    """Tell whether there is anything to ring for; a look that takes no lock."""
    return bool(session.scalar(_ANY_OVERDUE))


def due(session: Session, *, limit: int = 100, again_seconds: float = 60.0) -> dict[str, str]:
    """Return ids of queued jobs to ring for, with their queues; those still queued after so many seconds are due again.

    Those that are longest due come first. Ring when this has been committed, and note nothing after it: a slot that is
    woken takes no row that somebody else writes to, and would find nothing.
    """
    found = session.execute(_OVERDUE, {"most": limit}).all()
    if found:
        numbers = [row.number for row in found]
        session.execute(sa.update(jobs).where(jobs.c.number.in_(numbers)).values(ring_at=later(again_seconds)))
    return {row.id: row.queue for row in found}


def put_off(session: Session, job_ids: Collection[str], *, seconds: float = 10.0) -> None:
    """Note that nobody could be rung for jobs: they are due again after so many seconds."""
    session.execute(
        sa.update(jobs).where(jobs.c.id.in_(job_ids), in_state(JobState.QUEUED)).values(ring_at=later(seconds))
    )
