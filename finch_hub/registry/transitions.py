"""How jobs go from state to state, and what goes with it: the event, the end of the attempt, the dependents.

Internal to the registry: callers use `finch_hub.registry.jobs` and `finch_hub.registry.attempts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import tables
from finch_hub.registry.types import now
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import FINAL, TRANSITIONS, Job, JobState, Requirements

# Plain tables, not entities: rows change under other processes' hands, so nothing is kept in a session.
jobs = cast(sa.Table, tables.Job.__table__)
attempts = cast(sa.Table, tables.Attempt.__table__)
events = cast(sa.Table, tables.Event.__table__)
dependencies = cast(sa.Table, tables.JobDependency.__table__)


def in_state(*states: JobState, of: sa.FromClause = jobs) -> sa.ColumnElement[bool]:
    """Compare the state with literals: partial indexes are not used for bound parameters."""
    wanted = [sa.literal_column(f"'{state.value}'", sa.String()) for state in states]
    state = sa.type_coerce(of.c.state, sa.String())
    return state == wanted[0] if len(wanted) == 1 else state.in_(wanted)


def still_in(*states: JobState, of: sa.FromClause = jobs) -> sa.ColumnElement[bool]:
    """Compare the state of one row, which is found by its key: no partial index is to be used for that.

    PostgreSQL takes these for tiny until it has statistics of the table, and would walk all queued jobs for one claim.
    """
    return sa.type_coerce(of.c.state, sa.String()).concat("").in_([sa.literal_column(f"'{s.value}'") for s in states])


# Most jobs wait for none, which their row's own query says: a look saved for each row that is read.
_DEPENDS = sa.exists().where(dependencies.c.job_id == jobs.c.id).correlate(jobs).label("depends")
WHOLE = (*jobs.c, _DEPENDS)  # what `jobs_of` needs of a row

_NEW_EVENTS = "finch_hub.events"
_ADD_EVENTS = sa.insert(events)
_END_ATTEMPT = (
    sa.update(attempts)
    .where(
        attempts.c.job_id == sa.bindparam("of_job"),
        attempts.c.fence == sa.bindparam("of_fence"),
        attempts.c.outcome.is_(None),
    )
    .values(ended_at=now(), outcome=sa.bindparam("its_outcome"), reason=sa.bindparam("its_reason"))
    .returning(sa.exists().where(dependencies.c.depends_on == sa.bindparam("of_job")))
)
_WAITING_FOR = (
    sa.select(jobs.c.id)
    .join(dependencies, dependencies.c.job_id == jobs.c.id)
    .where(dependencies.c.depends_on == sa.bindparam("parent"), in_state(JobState.WAITING))
    .order_by(jobs.c.number)
    .with_for_update(of=jobs)
)
_PARENTS_OF = (
    sa.select(dependencies.c.job_id, dependencies.c.depends_on)
    .where(dependencies.c.job_id.in_(sa.bindparam("of", expanding=True)))
    .order_by(dependencies.c.position)
)


def move(
    session: Session,
    new: JobState,
    *where: sa.ColumnElement[bool],
    changes: dict[str, Any] | None = None,
    told: Sequence[NewEvent] = (),
    ending: tuple[str, str | None] | None = None,
) -> sa.Row[Any] | None:
    """Bring the one job that meets the condition to the new state, if its old one allows that.

    Returns the row as it is then, None where none met the condition. A final state settles the dependents. `told` is
    what else happened to it, before that; `ending` the outcome of the attempt that ends with it, and the reason.
    """
    return carry_out(session, transition(new, *where, changes=changes), new, told=told, ending=ending)


def transition(new: JobState, *where: sa.ColumnElement[bool], changes: dict[str, Any] | None = None) -> sa.Update:
    """Return the statement of a `move`, with parameters for `carry_out`: building one costs more than running it."""
    old = [state for state in TRANSITIONS if new in TRANSITIONS[state]]
    counted = jobs.c.last_seq + sa.bindparam("events_told", 1, type_=sa.BigInteger())
    changed: dict[str, Any] = {"state": new, "last_seq": counted, **(changes or {})}
    if new in (JobState.RUNNING, JobState.CANCELLED):
        changed.setdefault("reason", None)  # why an attempt before this failed is in that attempt's record
    if new is not JobState.RUNNING:
        changed |= {"lease_until": None, "worker": None if new is JobState.QUEUED else jobs.c.worker}
    if new is not JobState.QUEUED:
        changed |= {"ring_at": None, "not_before": None}
    if new in FINAL:
        changed |= {"finished_at": now()}
    return sa.update(jobs).where(still_in(*old), *where).values(changed).returning(*WHOLE)


def carry_out(
    session: Session,
    statement: sa.Update,
    new: JobState,
    parameters: dict[str, Any] | None = None,
    *,
    told: Sequence[NewEvent] = (),
    ending: tuple[str, str | None] | None = None,
    more: dict[str, Any] | None = None,
) -> sa.Row[Any] | None:
    """Do as `move` with the statement of a `transition`; `more` goes into the event of the new state."""
    row = session.execute(statement, {**(parameters or {}), "events_told": len(told) + 1}).one_or_none()
    if row is None:
        return None
    data = {"state": new.value, "attempt": row.attempts, **(more or {})}
    if row.reason and new is JobState.FAILED:
        data["reason"] = row.reason
    moved = NewEvent(type="state", level="error" if new is JobState.FAILED else "info", data=data)
    add_events(session, row.id, row.last_seq, [*told, moved])
    depended_on = True if ending is None else _end_attempt(session, row, *ending)
    if new in FINAL and depended_on:
        _settle_dependents(session, row.id)
    return row


def add_events(session: Session, job_id: str, last: int, new: Sequence[NewEvent]) -> None:
    """Add events, of which the last has that number; all of a transaction are inserted at its end, by one statement."""
    session.info.setdefault(_NEW_EVENTS, []).extend(
        {
            "job_id": job_id,
            "seq": seq,
            "type": event.type,
            "level": event.level,
            "message": event.message,
            "data": event.data,
        }
        for seq, event in enumerate(new, start=last - len(new) + 1)
    )


@sa.event.listens_for(Session, "before_commit")
def insert_events(session: Session) -> None:
    """Insert the events that were added: before the commit, or before they are looked at."""
    if rows := session.info.pop(_NEW_EVENTS, None):
        session.execute(_ADD_EVENTS, rows if len(rows) > 1 else rows[0])


def _end_attempt(session: Session, row: sa.Row[Any], outcome: str, reason: str | None) -> bool:
    """Close the record of a claim; return whether any job depends on this one.

    Whoever submits such a job holds this one's row until its commit, so a statement after the row's own sees them all.
    """
    parameters = {"of_job": row.id, "of_fence": row.fence, "its_outcome": outcome, "its_reason": reason}
    depended_on = session.scalar(_END_ATTEMPT, parameters)
    return depended_on is None or bool(depended_on)  # None: there is no such record, which says nothing of dependents


def _settle_dependents(session: Session, job_id: str) -> None:
    """Queue those that waited for this job last, and fail those that waited for a job that did not succeed."""
    # Locked first and looked at in a later statement: of two parents that end at once the second sees the first.
    for child in session.scalars(_WAITING_FOR, {"parent": job_id}).all():
        parents = session.execute(
            sa.select(jobs.c.id, jobs.c.state, jobs.c.reason)
            .join(dependencies, dependencies.c.depends_on == jobs.c.id)
            .where(dependencies.c.job_id == child)
            .order_by(dependencies.c.position)
        ).all()
        lost = next((p for p in parents if p.state in (JobState.FAILED, JobState.CANCELLED)), None)
        if lost is not None:
            why = f": {lost.reason}" if lost.reason else ""
            reason = f"job {lost.id}, which it waited for, {_WHAT_HAPPENED[lost.state]}{why}"
            move(session, JobState.FAILED, jobs.c.id == child, changes={"reason": reason})
        elif all(p.state is JobState.SUCCEEDED for p in parents):
            move(session, JobState.QUEUED, jobs.c.id == child, changes={"ring_at": now()})


_WHAT_HAPPENED = {JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}


def jobs_of(session: Session, rows: Sequence[sa.Row[Any]]) -> list[Job]:
    """Return the values of rows of `WHOLE`, with what they depend on."""
    waits_for: dict[str, list[str]] = {row.id: [] for row in rows if row.depends}
    if waits_for:
        for job_id, other in session.execute(_PARENTS_OF, {"of": list(waits_for)}):
            waits_for[job_id].append(other)
    return [job_of(row, waits_for.get(row.id, ())) for row in rows]


def job_of(row: sa.Row[Any], depends_on: Iterable[str]) -> Job:
    """Return the value of one row."""
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        spec=row.spec,
        requirements=Requirements(
            queue=row.queue,
            device=row.device,
            memory_bytes=row.memory_bytes,
            labels=tuple(row.labels),
            time_limit=row.time_limit,
            together=row.gang is not None,
        ),
        priority=row.priority,
        fence=row.fence,
        attempts=row.attempts,
        cancel_requested=row.cancel_requested is not None,
        depends_on=tuple(depends_on),
        retry_of=row.retry_of,
        created_at=row.created_at,
        not_before=row.not_before,
        lease_until=row.lease_until,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        reason=row.reason,
        result=row.result,
    )
