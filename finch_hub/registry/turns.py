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
            front, claimed, last = session.execute(_SELECT_REACHED, parameters).one()
            candidates = [front or 0, *(turn + 1 for turn in (claimed, last) if turn is not None)]
            following[line] = min(max(candidates), _MAX_TURN)
        turns.append(following[line])
        following[line] += 1
    return turns


def _select_reached() -> sa.Select[int | None, int | None, int | None]:
    """Select the turns at the front of a line, that was claimed, and of the owner's last job."""
    of_priority = jobs.c.priority == sa.bindparam("of_priority")
    of_line = sa.and_(jobs.c.queue == sa.bindparam("of_queue"), jobs.c.device == sa.bindparam("of_device"))
    is_own = (jobs.c.owner == sa.bindparam("of_owner"), jobs.c.finished_at.is_(None))
    greatest = sa.select(sa.func.max(jobs.c.turn))
    first = sa.select(sa.func.min(jobs.c.turn).label("turn")).where(in_state(JobState.QUEUED), of_priority, of_line)
    front = first.cte("front")
    # Jobs that fit no slot now, or whose owner is at the limit, hold back the front. Then claims tell more.
    claimed = greatest.where(jobs.c.fence > sa.literal_column("0"), of_priority)  # as in the indexes
    of_all, of_own = claimed.scalar_subquery(), claimed.where(of_line).scalar_subquery()
    last = greatest.where(*is_own, of_priority, of_line).scalar_subquery()
    return sa.select(front.c.turn, sa.case((front.c.turn.is_(None), of_all), else_=of_own), last).select_from(front)


_SELECT_REACHED = _select_reached()
