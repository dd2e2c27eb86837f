"""Limits of the jobs of one owner.

They are exact. On SQLite one transaction writes at a time. On PostgreSQL transactions that count the jobs of one owner
take a lock, which the end of the transaction releases. Without a limit nothing is counted or locked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import in_state
from finch_hub.specs.jobs import JobState

_What = Literal["running", "unfinished"]


def hold_owner(session: Session, owner: str, what: _What, *, wait: bool = True) -> bool:
    """Keep other transactions from counting the jobs of an owner until this one ends. Return whether that succeeded.

    A transaction waits for one owner at a time, or for several in the order of their names, so that no two transactions
    wait for each other.
    """
    if session.get_bind().dialect.name == "sqlite":
        return True
    digest = hashlib.sha256(f"{what} {owner}".encode()).digest()
    key = int.from_bytes(digest[:8], signed=True)
    if not wait:
        return bool(session.scalar(_TRY_LOCK, {"key": key}))
    session.execute(_LOCK, {"key": key})
    return True


def count_running(session: Session, owner: str) -> int:
    """Return the number of the owner's running jobs."""
    return session.scalar(_COUNT_RUNNING, {"of_owner": owner}) or 0


def list_full_owners(limit: sa.BindParameter[int]) -> sa.Select[tuple[str]]:
    """Return the query for the owners with as many running jobs as the limit."""
    running = jobs.alias("running")
    return (
        sa.select(running.c.owner)
        .where(in_state(JobState.RUNNING, of=running))
        .group_by(running.c.owner)
        .having(sa.func.count() >= limit)
    )


def refuse_beyond(session: Session, owners: Collection[str], limit: int, *, num_more: int = 0) -> None:
    """Refuse owners who have more unfinished jobs than the limit.

    Args:
        num_more: number of jobs that each owner is about to submit.

    Raises:
        Conflict: an owner would have more.
    """
    for owner in sorted(owners):
        if session.scalar(_HAS_MORE, {"of_owner": owner, "limit": limit - num_more}) is not None:
            raise errors.Conflict(
                f"cannot submit: owner {owner!r} would have more unfinished jobs than {limit:,}"
                " (wait until some have ended, cancel some, or raise FINCH_OWNER_UNFINISHED)"
            )


_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(:key)")
_COUNT_RUNNING = (
    sa.select(sa.func.count())
    .select_from(jobs)
    .where(in_state(JobState.RUNNING), jobs.c.owner == sa.bindparam("of_owner"))
)
_IS_OWN = (jobs.c.owner == sa.bindparam("of_owner"), jobs.c.finished_at.is_(None))
_HAS_MORE = sa.select(jobs.c.owner).where(*_IS_OWN).offset(sa.bindparam("limit", type_=sa.BigInteger())).limit(1)
