"""State changes of jobs, with their events. `settlements` adds what an end means for other jobs.

Internal to the registry: callers use `jobs`, `claims` and `attempts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry.tables import announcements, dependencies, job_events, jobs, listeners
from finch_hub.registry.types import UNKNOWN_TIME, Columns, now, one_of
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import FINAL, TRANSITIONS, Job, JobState, Requirements
from finch_hub.specs.value import JsonObject

_VALUE_COLUMNS = (Job.model_fields.keys() & jobs.c.keys()) - {"cancel_requested", "set_aside"}
_REQUIREMENT_COLUMNS = Requirements.model_fields.keys() & jobs.c.keys()


def in_state(*states: JobState, of: sa.FromClause = jobs) -> sa.ColumnElement[bool]:
    """Return the condition that a job is in one of the states, with literals, so that partial indexes apply."""
    wanted = [sa.literal_column(f"'{state.value}'", sa.String()) for state in states]
    state = sa.type_coerce(of.c.state, sa.String())
    return state == wanted[0] if len(wanted) == 1 else state.in_(wanted)


def in_state_unindexed(*states: JobState, of: sa.FromClause = jobs) -> sa.ColumnElement[bool]:
    """Return the same condition for a row that is found by its key, without partial indexes.

    PostgreSQL takes these indexes for tiny until it has statistics, and would read all queued jobs for a claim.
    """
    return sa.type_coerce(of.c.state, sa.String()).concat("").in_([sa.literal_column(f"'{s.value}'") for s in states])


def in_state_of_owner(state: JobState, owner: Any, of: sa.FromClause = jobs) -> sa.ColumnElement[bool]:
    """Return the condition that an unfinished job of an owner is in a state, for the index of owners and no other.

    The state is no literal, so that the index of all queued jobs does not apply. PostgreSQL would choose that one
    while its statistics know one owner.
    """
    wanted = sa.select(sa.literal_column(f"'{state.value}'", sa.String())).scalar_subquery()
    is_in_state = sa.type_coerce(of.c.state, sa.String()) == wanted
    return sa.and_(of.c.owner == owner, of.c.finished_at.is_(None), is_in_state)


# Most jobs depend on none. A column says so, which saves a query for each row.
_HAS_PARENTS = sa.exists().where(dependencies.c.job_id == jobs.c.id).correlate(jobs).label("has_parents")
JOB_COLUMNS = (*jobs.c, _HAS_PARENTS)  # the columns that `to_jobs` needs

HAS_LISTENERS = sa.exists().select_from(listeners).label("has_listeners")
"""Column beside those of a changed job: whether any listener is to hear of the change. It saves a statement if not."""

_PENDING_EVENTS = "finch_hub.events"  # keys in the session's dictionary
_PENDING_ANNOUNCEMENTS = "finch_hub.announcements"
_INSERT_EVENTS = sa.insert(job_events)
_ANNOUNCE = sa.insert(announcements).from_select(
    ["job_id", "seq", "listener", "failed_calls", "due_at"],
    sa.select(
        sa.bindparam("changed_job", type_=sa.String()),
        sa.bindparam("changed_seq", type_=sa.BigInteger()),
        listeners.c.name,
        sa.literal(0),
        now(),
    ).with_for_update(read=True, key_share=True),  # one that is forgotten meanwhile would break the foreign key
)
_SELECT_PARENTS = (
    sa.select(dependencies.c.job_id, dependencies.c.depends_on)
    .where(one_of(dependencies.c.job_id, "of"))
    .order_by(dependencies.c.position)
)


def build_transition(new: JobState, *where: sa.ColumnElement[bool], changes: Columns | None = None) -> sa.Update:
    """Return the statement of a state change. `changes` are the values of further columns."""
    old = [state for state in TRANSITIONS if new in TRANSITIONS[state]]
    last_seq = jobs.c.last_seq + sa.bindparam("num_events", 1, type_=sa.BigInteger())
    columns: Columns = {"state": new, "last_seq": last_seq, **(changes or {})}
    if new in (JobState.RUNNING, JobState.CANCELLED):
        columns.setdefault("reason", None)  # the record of the earlier attempt keeps its reason
    if new is not JobState.RUNNING:
        columns |= {
            "lease_until": None,
            "claim_token": None,
            "worker": None if new is JobState.QUEUED else jobs.c.worker,
        }
    if new is not JobState.QUEUED:
        columns |= {"ring_at": None, "not_before": None}
    if new in FINAL:
        columns |= {"finished_at": now()}
    return (
        sa.update(jobs).where(in_state_unindexed(*old), *where).values(columns).returning(*JOB_COLUMNS, HAS_LISTENERS)
    )


def execute_transition(
    session: Session,
    statement: sa.Update,
    new: JobState,
    parameters: Columns | None = None,
    *,
    events: Sequence[NewEvent] = (),
    data: JsonObject | None = None,
) -> sa.Row[Any] | None:
    """Execute the statement of a state change, any number of times.

    Return the new row, or None if no job met the conditions.

    Args:
        events: events to add before the event of the new state.
        data: further data of the new state's event.
    """
    row = session.execute(statement, {**(parameters or {}), "num_events": len(events) + 1}).one_or_none()
    if row is None:
        return None
    data = {"state": new.value, "attempt": row.attempts, **(data or {})}
    if row.reason and new in (JobState.FAILED, JobState.QUEUED):
        data["reason"] = row.reason
    event = NewEvent(type="state", level="error" if new is JobState.FAILED else "info", data=data)
    add_events(session, row.id, row.last_seq, [*events, event])
    if row.has_listeners:
        announce(session, row.id, row.last_seq)
    return row


def add_events(session: Session, job_id: str, last: int, new: Sequence[NewEvent]) -> None:
    """Add events, the last of which has number `last`. One statement at the commit inserts all events."""
    session.info.setdefault(_PENDING_EVENTS, []).extend(
        {"job_id": job_id, "seq": seq, **dict(event)}  # not `model_dump`, which copies the data
        for seq, event in enumerate(new, start=last - len(new) + 1)
    )


def announce(session: Session, job_id: str, seq: int) -> None:
    """Let each listener hear of the state that the event with this number tells. The commit writes it down."""
    session.info.setdefault(_PENDING_ANNOUNCEMENTS, []).append({"changed_job": job_id, "changed_seq": seq})


@sa.event.listens_for(Session, "before_commit")
def insert_events(session: Session) -> None:
    """Insert the pending events and announcements, before the commit or before a query for events."""
    for key, statement in ((_PENDING_EVENTS, _INSERT_EVENTS), (_PENDING_ANNOUNCEMENTS, _ANNOUNCE)):
        if rows := session.info.pop(key, None):
            session.execute(statement, rows if len(rows) > 1 else rows[0])


def drop_events(session: Session) -> None:
    """Forget the pending events and announcements, because what they tell is rolled back."""
    for key in (_PENDING_EVENTS, _PENDING_ANNOUNCEMENTS):
        session.info.pop(key, None)


def to_jobs(session: Session, rows: Sequence[sa.Row[Any]]) -> list[Job]:
    """Return the values of rows with `JOB_COLUMNS`."""
    parents: dict[str, list[str]] = {row.id: [] for row in rows if row.has_parents}
    if parents:
        for job_id, other in session.execute(_SELECT_PARENTS, {"of": list(parents)}):
            parents[job_id].append(other)
    return [to_job(row, parents.get(row.id, ())) for row in rows]


_STAND_INS = {"spec": {}, "created_at": UNKNOWN_TIME}  # of fields that have no default


def _check_kind(job: Job) -> Job:
    if isinstance(job.spec.get("kind"), str):
        return job
    raise errors.InvalidSpec("has no kind", where="spec")


def to_job(row: sa.Row[Any], depends_on: Iterable[str]) -> Job:
    """Return the value of a row. A row that this version cannot read, or that is damaged, is `unreadable`."""
    columns = row._mapping
    fields: Columns = {
        **{column: columns[column] for column in _VALUE_COLUMNS},
        "requirements": {column: columns[column] for column in _REQUIREMENT_COLUMNS}
        | {"together": row.gang is not None}
        # Only trainings estimate. Rows of earlier versions have the default of the column, whatever their kind.
        | ({} if row.kind == "train" else {"is_memory_estimated": False}),
        "cancel_requested": row.cancel_requested is not None,
        "depends_on": tuple(depends_on),
        "set_aside": row.set_aside or (),
    }
    try:
        return _check_kind(Job(**fields))
    except errors.InvalidSpec as error:
        invalid = {problem.where.partition(".")[0] for problem in error.problems}
        readable = {name: value for name, value in fields.items() if name not in invalid}
        texts = {name: str(columns[name]) for name in ("id", "kind")}  # which SQLite may have as bytes
        return Job(**(_STAND_INS | texts | readable), unreadable="; ".join(map(str, error.problems)))
