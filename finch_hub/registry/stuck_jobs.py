"""Stuck jobs: those that wait for other jobs, although no end of another job will settle them.

The jobs that they depend on have ended or are gone, as after an edit of the database, or come after them, as in a
circle. Sweeps look at some waiting jobs each time, and settle those that are stuck.
"""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import settlements
from finch_hub.registry.tables import dependencies, jobs
from finch_hub.registry.tables import settlements as settlement_rows
from finch_hub.registry.transitions import build_transition, execute_transition, in_state, in_state_unindexed
from finch_hub.specs.jobs import JobState

_NUM_EXAMINED = 200  # waiting jobs that one sweep looks at; the next one goes on behind them


def settle(session: Session, *, after: int = 0) -> int:
    """Settle the stuck ones of some waiting jobs.

    Return the number of the last job that was looked at, 0 if no more follow. It is `after` of the next call.
    """
    rows = session.execute(_SELECT_WAITING, {"after": after, "limit": _NUM_EXAMINED}).all()
    for row in rows:
        if not row.is_stuck:
            continue
        try:
            with settlements.isolate(session):
                _settle_one(session, row)
        except Exception as error:
            settlements.set_aside(session, row.id, error)
    return rows[-1].number if len(rows) == _NUM_EXAMINED else 0


def find(session: Session, *, limit: int = 1000) -> dict[str, str]:
    """Return why each stuck job among the first waiting ones waits for nothing, by its id."""
    rows = session.execute(_SELECT_WAITING, {"after": 0, "limit": limit})
    return {row.id: _explain(row) for row in rows if row.is_stuck}


def explain(session: Session, job_id: str) -> str | None:
    """Return why a waiting job is stuck, None if it is not."""
    row = session.execute(_SELECT_ONE, {"waiting_job": job_id}).one_or_none()
    return None if row is None or not row.is_stuck else _explain(row)


def _settle_one(session: Session, row: sa.Row[Any]) -> None:
    if not row.has_later and (ended := session.scalar(_SELECT_ENDED_OTHER, {"waiting_job": row.id})) is not None:
        settlements.settle_later(session, ended)  # the usual way, which locks and looks again
        return
    parameters = {"waiting_job": row.id, "why": _explain(row)}
    if execute_transition(session, _fail(), JobState.FAILED, parameters) is not None:
        settlements.settle_later(session, row.id)


def _explain(row: sa.Row[Any]) -> str:
    if row.has_later:
        return "this job depends on itself or on a job that was submitted later, so it could never run"
    if not row.has_earlier:
        return "the jobs that this job depends on are no longer in the database"
    return "all jobs that this job depends on have ended"


_child, _other = jobs.alias("child"), jobs.alias("other")  # a waiting job, and one that it depends on


def _has_other(*where: sa.ColumnElement[bool]) -> sa.Exists:
    is_other = (dependencies.c.job_id == _child.c.id, _other.c.id == dependencies.c.depends_on)
    return sa.exists().where(*is_other, *where).correlate(_child)


_is_earlier = _other.c.number < _child.c.number  # as usual: a job depends on those that were there before
_waits = _has_other(_is_earlier, _other.c.finished_at.is_(None))
# The end of another job is being carried out, or is tried again later.
_is_being_settled = _has_other(sa.exists().where(settlement_rows.c.job_id == _other.c.id).correlate(_other))
_is_set_aside = sa.exists().where(settlement_rows.c.job_id == _child.c.id).correlate(_child)
_COLUMNS = (
    _child.c.number,
    _child.c.id,
    sa.and_(~_waits, ~_is_being_settled, ~_is_set_aside).label("is_stuck"),
    _has_other(_is_earlier).label("has_earlier"),
    _has_other(~_is_earlier).label("has_later"),
)
_SELECT_WAITING = (
    sa.select(*_COLUMNS)
    .where(in_state(JobState.WAITING, of=_child), _child.c.number > sa.bindparam("after", type_=sa.BigInteger()))
    .order_by(_child.c.number)
    .limit(sa.bindparam("limit", type_=sa.Integer()))
)
_wanted = sa.bindparam("waiting_job", type_=sa.String())
_SELECT_ONE = sa.select(*_COLUMNS).where(_child.c.id == _wanted, in_state_unindexed(JobState.WAITING, of=_child))
_SELECT_ENDED_OTHER = (
    sa.select(_other.c.id)
    .join(dependencies, dependencies.c.depends_on == _other.c.id)
    .where(dependencies.c.job_id == _wanted, _other.c.finished_at.is_not(None))
    .order_by(sa.case((in_state_unindexed(JobState.SUCCEEDED, of=_other), 1), else_=0), _other.c.number)
    .limit(1)  # one that did not succeed, if any
)


@functools.cache
def _fail() -> sa.Update:
    is_waiting = (jobs.c.id == _wanted, in_state_unindexed(JobState.WAITING))
    return build_transition(JobState.FAILED, *is_waiting, changes={"reason": sa.bindparam("why")})
