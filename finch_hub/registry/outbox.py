"""Queries for queued jobs that need a wake-up message.

A transaction that queues a job again, or because its dependencies ended, also sets `ring_at`. At that time a worker
clears `ring_at` and sends one message. So a job that waits for a slot costs no writes and no further messages. A new
job has no `ring_at`, since its submitter sends the message.

Messages are hints. If one is lost, an idle slot finds the job at its next look.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry.jobs import hash_needs
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import in_state
from finch_hub.registry.types import now, once, one_of
from finch_hub.specs.jobs import JobState, Requirements

# These ask for the first row in the order of an index. Of `EXISTS`, PostgreSQL believes that any row will do soon, and
# reads a million jobs of which none is due.
_ANY_QUEUED = sa.select(sa.true()).where(in_state(JobState.QUEUED)).limit(1)
_HAS_QUEUED = _ANY_QUEUED.order_by(jobs.c.priority.desc(), jobs.c.turn)
_HAS_UNSENT = _ANY_QUEUED.where(jobs.c.ring_at.is_not(None)).order_by(jobs.c.ring_at)
_HAS_DUE = _ANY_QUEUED.where(jobs.c.ring_at <= once(now())).order_by(jobs.c.ring_at)
_SELECT_DUE = (
    sa.select(
        *(jobs.c[name] for name in ("number", "id", "kind", "queue", "device", "memory_bytes", "labels", "needs"))
    )
    .where(in_state(JobState.QUEUED), jobs.c.ring_at <= once(now()))
    .order_by(jobs.c.ring_at)
    .limit(sa.bindparam("max_jobs", type_=sa.Integer()))
    .with_for_update(skip_locked=True)
)


class QueuedJob(NamedTuple):
    """A queued job that needs a message. Jobs with equal `needs` fit the same slots."""

    id: str
    queue: str
    needs: str | None


def has_due(session: Session) -> bool:
    """Return whether any job needs a message, without taking a lock."""
    return bool(session.scalar(_HAS_DUE))


def has_unsent(session: Session) -> bool:
    """Return whether any job needs a message, now or later."""
    return bool(session.scalar(_HAS_UNSENT))


def has_queued(session: Session) -> bool:
    """Return whether any job is queued, whatever became of its message."""
    return bool(session.scalar(_HAS_QUEUED))


def take_due(session: Session, *, limit: int = 100) -> list[QueuedJob]:
    """Return the queued jobs that need a message, longest due first. None of them is due again while it waits.

    Send the messages after the commit, and write nothing to these jobs afterwards: the woken slot skips locked rows.
    """
    rows = session.execute(_SELECT_DUE, {"max_jobs": limit}).all()
    if rows:
        numbers = [row.number for row in rows]
        session.execute(sa.update(jobs).where(one_of(jobs.c.number, numbers)).values(ring_at=None))
    return [QueuedJob(row.id, row.queue, row.needs or _add_needs(session, row)) for row in rows]


def _add_needs(session: Session, row: sa.Row[Any]) -> str | None:
    """Record the needs of a job from a client of an earlier version. A claim finds a job behind others by its needs."""
    with contextlib.suppress(errors.InvalidSpec):  # a claim sets the job aside
        requirements = Requirements(
            queue=row.queue, device=row.device, memory_bytes=row.memory_bytes, labels=row.labels
        )
        needs = hash_needs(row.kind, requirements)
        session.execute(sa.update(jobs).where(jobs.c.number == row.number).values(needs=needs))
        return needs
    return None


def ring_all(session: Session) -> int:
    """Let each queued job have a message at once, or when its wait ends, and return the number of these jobs."""
    due = sa.func.coalesce(jobs.c.not_before, now(), type_=jobs.c.ring_at.type)
    ringing = sa.update(jobs).where(in_state(JobState.QUEUED)).values(ring_at=due).returning(jobs.c.id)
    return len(session.scalars(ringing).all())
