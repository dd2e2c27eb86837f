"""Turns: numbers by which the owners of queued jobs take turns.

A job gets its turn when it is queued for the first time, by start-time fair queueing (Goyal, Vin and Cheng, 1996)::

    turn = max(front, claimed + 1, last + 1)

`front` is the smallest turn in the queue, and `claimed` the greatest that was claimed. `last` is the greatest turn of
the owner's jobs in the same line: those of one priority, queue and device. So a new owner begins where the others are,
and an owner has one job in each turn. A claim takes the smallest turn, and among equal turns the first owner by name.
A job that returns to the queue keeps its turn.

A line without a worker, or with slow jobs, is behind others. So its own jobs tell `front` and `claimed`. If none is
queued, all jobs of the priority tell `claimed`, so that no line begins before the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import in_state
from finch_hub.specs.jobs import JobState

_MAX_TURN: int = 2**62  # a damaged turn may be greater, and none is greater than 2**63 - 1
_NUM_CLAIMED = "64"  # claimed jobs with the greatest turns; a literal, since PostgreSQL takes a parameter for much more


class Line(NamedTuple):
    """The jobs of one owner that have different turns."""

    owner: str
    priority: int
    queue: str
    device: str


def assign_turns(session: Session, lines: Sequence[Line]) -> list[int]:
    """Return the turns of jobs that are queued now, in order."""
    following: dict[Line, int] = {}
    turns: list[int] = []
    for line in lines:
        if line not in following:
            parameters = {f"of_{name}": value for name, value in line._asdict().items()}
            turn: int = session.scalar(_SELECT_TURN, parameters) or 0
            following[line] = min(turn, _MAX_TURN)
        turns.append(following[line])
        following[line] += 1
    return turns


def _next(turn: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    greatest = sa.literal_column(str(_MAX_TURN), sa.BigInteger())
    return sa.case((turn < greatest, turn + 1), (turn >= greatest, greatest))


def _select_turn() -> sa.Select[tuple[int | None]]:
    of_priority = jobs.c.priority == sa.bindparam("of_priority")
    of_line = sa.and_(jobs.c.queue == sa.bindparam("of_queue"), jobs.c.device == sa.bindparam("of_device"))
    is_own = (jobs.c.owner == sa.bindparam("of_owner"), jobs.c.finished_at.is_(None))
    after_last = sa.select(_next(sa.func.max(jobs.c.turn)).label("turn")).where(*is_own, of_priority, of_line)
    first = sa.select(sa.func.min(jobs.c.turn).label("turn")).where(in_state(JobState.QUEUED), of_priority, of_line)
    front = first.cte("front")
    # Jobs that fit no slot now, or whose owner is at the limit, hold back the front. Then claims tell more. If these
    # are all of lines that are ahead, the turn after the front is late enough for those that wait already.
    claimed = (
        sa.select(jobs.c.turn, of_line.label("is_in_line"))
        .where(jobs.c.fence > sa.literal_column("0"), of_priority)  # as in the index
        .order_by(jobs.c.turn.desc())
        .limit(sa.literal_column(_NUM_CLAIMED))
        .subquery("claimed")
    )
    tells = sa.or_(claimed.c.is_in_line, front.c.turn.is_(None))
    reached = sa.func.coalesce(sa.func.max(sa.case((tells, claimed.c.turn))), sa.func.max(front.c.turn))
    after_claimed = sa.select(_next(reached)).select_from(claimed.join(front, sa.true()))
    candidates = sa.union_all(after_last, sa.select(front.c.turn), after_claimed).subquery("candidates")
    return sa.select(sa.func.max(candidates.c.turn))


_SELECT_TURN = _select_turn()
