"""Listeners of plugins, and the changes of jobs that each has not heard.

The transaction that changes the state of a job writes an announcement for each listener (see `transitions`). A worker
that has the listener takes its announcements, calls it, and deletes them. So it hears each change at least once,
whoever made it, and in whatever order transactions were committed.

One worker at a time calls a listener, under a lease, which it renews during a call. A lease that ended in a call, as of
a worker that was suspended, may cause a second call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.tables import announcements, job_events, jobs
from finch_hub.registry.tables import listeners as table
from finch_hub.registry.transitions import JOB_COLUMNS, to_jobs
from finch_hub.registry.types import LONGEST_WAIT_SECONDS, insert_new, later, now, once, one_of
from finch_hub.specs.jobs import FINAL, Job

LEASE_SECONDS = 60.0
MAX_CALLS = 5  # that may fail, until a change is skipped
_WAIT_SECONDS = 15.0  # after the first call that failed; doubled after each further one
_KEPT_SECONDS = 7 * 86_400.0  # for which a listener that no worker has is kept, and a change that waits


def register(session: Session, names: Collection[str]) -> None:
    """Record that a worker has these listeners. A new one hears of changes from now on."""
    session.execute(sa.update(table).where(one_of(table.c.name, names)).values(seen_at=now()))
    session.execute(insert_new(session, table, "name"), [{"name": name} for name in sorted(names)])


def has_due(session: Session, name: str, caller: str) -> bool:
    """Return whether there are changes for a listener that this caller may call."""
    waits = sa.exists().where(announcements.c.listener == table.c.name)
    is_due = sa.or_(waits.where(announcements.c.due_at <= once(now())), waits.where(_IS_ENDLESS))
    return bool(session.scalar(sa.select(sa.exists().where(*_may_call(name, caller), is_due))))


def take(session: Session, name: str, caller: str, *, limit: int) -> list[values.StateChange]:
    """Take or renew the lease of a listener, and return the changes that it is to hear next, in order.

    There are none if another caller has the lease.
    """
    lease = {"caller": caller, "called_until": later(LEASE_SECONDS)}
    if session.scalar(sa.update(table).where(*_may_call(name, caller)).values(lease).returning(table.c.name)) is None:
        return []
    endless = sa.update(announcements).where(announcements.c.listener == name, _IS_ENDLESS)
    session.execute(endless.values(due_at=now()))
    number, told = announcements.c.seq.label("change_seq"), job_events.c.data.label("change_data")
    is_event = sa.and_(job_events.c.job_id == announcements.c.job_id, job_events.c.seq == announcements.c.seq)
    columns: Sequence[sa.ColumnElement[Any]] = (*JOB_COLUMNS, announcements.c.failed_calls, number, told)
    rows = session.execute(
        sa.select(*columns)
        .select_from(announcements)
        .join(jobs, jobs.c.id == announcements.c.job_id)
        .join(job_events, is_event)
        .where(announcements.c.listener == name, announcements.c.due_at <= once(now()))
        .order_by(announcements.c.due_at, announcements.c.seq)
        .limit(limit)
    ).all()
    return [
        values.StateChange(job=_as_told(job, row.change_data), seq=row.change_seq, failed_calls=row.failed_calls)
        for row, job in zip(rows, to_jobs(session, rows), strict=True)
    ]


def renew(session: Session, name: str, caller: str) -> bool:
    """Extend the lease of a caller from now. Return whether the caller had it, and no other may have called since."""
    lease = (
        sa.update(table).where(table.c.name == name, table.c.caller == caller).values(called_until=later(LEASE_SECONDS))
    )
    return session.scalar(lease.returning(table.c.name)) is not None


def release(session: Session, name: str, caller: str) -> None:
    """End the lease of a caller, so that another worker can call the listener at once."""
    session.execute(sa.update(table).where(table.c.name == name, table.c.caller == caller).values(called_until=now()))


def record_success(session: Session, name: str, heard: Sequence[values.StateChange]) -> None:
    """Record that a listener heard some changes. Its trouble lasts while it is to be called again with another one."""
    session.execute(sa.delete(announcements).where(_are(name, heard)))
    fails = sa.exists().where(announcements.c.listener == name, announcements.c.failed_calls > 0)
    is_over = sa.and_(table.c.name == name, table.c.trouble.is_not(None), ~fails)
    session.execute(sa.update(table).where(is_over).values(trouble=None))


def record_failure(session: Session, name: str, change: values.StateChange, trouble: str) -> bool:
    """Record that a call failed, and return whether the listener is called again with this change, after a wait."""
    is_last = change.failed_calls + 1 >= MAX_CALLS
    skipped = table.c.skipped + int(is_last)
    session.execute(sa.update(table).where(table.c.name == name).values(trouble=trouble, skipped=skipped))
    if is_last:
        session.execute(sa.delete(announcements).where(_are(name, [change])))
    else:
        wait = later(_WAIT_SECONDS * 2**change.failed_calls)
        failed = {"failed_calls": change.failed_calls + 1, "due_at": wait}
        session.execute(sa.update(announcements).where(_are(name, [change])).values(failed))
    return not is_last


def find(session: Session) -> list[values.Listener]:
    """Return all listeners by name."""
    waiting = (
        sa.select(sa.func.count())
        .select_from(announcements)
        .where(announcements.c.listener == table.c.name)
        .scalar_subquery()
    )
    columns = (table.c.name, table.c.skipped, table.c.trouble, waiting.label("waiting"))
    rows = session.execute(sa.select(*columns).order_by(table.c.name))
    return [values.Listener(**row._mapping) for row in rows]


def forget(session: Session) -> list[str]:
    """Delete the listeners that no worker had for a week, and return their names."""
    is_gone = table.c.seen_at < later(-_KEPT_SECONDS)
    return list(session.scalars(sa.delete(table).where(is_gone).returning(table.c.name)))


def skip_old(session: Session, name: str) -> int:
    """Skip the changes that waited for a week, because the listener is too slow, and return their number."""
    is_old = (announcements.c.listener == name, announcements.c.due_at < once(later(-_KEPT_SECONDS)))
    num_old = len(session.scalars(sa.delete(announcements).where(*is_old).returning(announcements.c.seq)).all())
    if num_old:
        session.execute(sa.update(table).where(table.c.name == name).values(skipped=table.c.skipped + num_old))
    return num_old


# A wait that a clock that jumped has left. It is asked for by itself, so that an index serves each question.
_IS_ENDLESS = announcements.c.due_at > once(later(LONGEST_WAIT_SECONDS))


def _may_call(name: str, caller: str) -> tuple[sa.ColumnElement[bool], ...]:
    # A clock that jumped may leave a lease that ends much later than any other.
    until = table.c.called_until
    is_held = sa.and_(until > now(), until <= later(2 * LEASE_SECONDS))  # a lease that ends now has ended
    return table.c.name == name, sa.or_(table.c.called_until.is_(None), ~is_held, table.c.caller == caller)


def _are(name: str, changes: Sequence[values.StateChange]) -> sa.ColumnElement[bool]:
    keys = [(change.job.id, change.seq) for change in changes]
    return sa.and_(announcements.c.listener == name, sa.tuple_(announcements.c.job_id, announcements.c.seq).in_(keys))


def _as_told(job: Job, change: Any) -> Job:
    """Return a job as it was after a change, as far as the event tells. A job that ended does not change again."""
    change = change if isinstance(change, Mapping) else {}
    fields = {"reason": change.get("reason"), "worker": change.get("worker"), "result": None, "finished_at": None}
    try:
        told = job.evolve(state=change.get("state"), attempts=change.get("attempt"), **fields)
    except errors.InvalidSpec:  # the event is damaged, or of another version
        return job
    return job if told.state in FINAL else told
