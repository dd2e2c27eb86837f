"""For which queued jobs the bell is to be rung.

A queued row is its own outbox entry: `ring_at` is written in the transaction that queues the job, and goes when a
worker claims it. Nothing is lost with a message, nor with whoever should have sent it; ringing twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.transitions import in_state, jobs
from finch_hub.registry.types import later, now, once
from finch_hub.specs.jobs import JobState


def due(session: Session, *, limit: int = 100, hold_seconds: float = 10.0) -> list[str]:
    """Return ids of queued jobs to ring for, longest due first, and hold them back from other reconcilers meanwhile."""
    overdue = (
        sa.select(jobs.c.number)
        .where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now()))
        .order_by(jobs.c.ring_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    numbers = session.scalars(overdue).all()
    if not numbers:
        return []
    held = session.execute(
        sa.update(jobs)
        .where(jobs.c.number.in_(numbers))
        .values(ring_at=later(hold_seconds))
        .returning(jobs.c.number, jobs.c.id)
    )
    ids = {row.number: row.id for row in held}
    return [ids[number] for number in numbers]


def rung(session: Session, job_ids: Sequence[str], *, again_seconds: float = 60.0) -> None:
    """Note that the bell was rung; for a job still queued after so many seconds it is due again."""
    session.execute(
        sa.update(jobs).where(jobs.c.id.in_(job_ids), in_state(JobState.QUEUED)).values(ring_at=later(again_seconds))
    )
