"""Turns: numbers by which the owners of queued jobs take turns.

A job gets its turn when it is queued for the first time, by start-time fair queueing (Goyal, Vin and Cheng, 1996)::

    turn = max(clock, last + 1)

`clock` is the turn that is claimed now. `last` is the greatest turn of the owner's queued and running jobs. So the jobs
of one owner have different turns, and a new owner begins where the others are. A claim takes the smallest turn, and
needs to know nothing about owners. A job that returns to the queue keeps its turn.

Both numbers are those of a line: the jobs of one priority, queue and device. A line without a worker, or with slow
jobs, holds back the clock of no other line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import dependencies, jobs
from finch_hub.registry.transitions import in_state, in_state_of_owner
from finch_hub.registry.types import Columns
from finch_hub.specs.jobs import JobState

_NUM_EXAMINED = 64  # jobs in one look


class Place(NamedTuple):
    """What decides the turn of a job."""

    owner: str
    priority: int
    queue: str
    device: str
    needs: str | None


class _Clock(NamedTuple):
    now: int
    last: int


def assign_turns(session: Session, places: Sequence[Place]) -> list[int]:
    """Return the turns of jobs that are queued now, in order."""
    clocks: dict[Place, _Clock] = {}
    last: dict[Place, int] = {}
    turns = []
    for place in places:
        if place not in clocks:
            clocks[place] = _read_clock(session, place)
        line = place._replace(needs=None)
        turns.append(max(clocks[place].now, last.get(line, clocks[place].last) + 1))
        last[line] = turns[-1]
    return turns


def assign_turn_after_parents(session: Session, job_id: str, place: Place) -> int:
    """Return the turn of a job that is queued because the jobs that it depends on have ended.

    It is after the turns of these. Otherwise each job of a chain would be claimed at once after the one before it,
    because it was submitted before the jobs of others with the same turn. If there are no jobs of others, the job is
    claimed as its owner submitted it: after the earlier jobs, and before the later ones.
    """
    clock = _read_clock(session, place)
    row = session.execute(_select_surroundings(), {"of_job": job_id, **_describe(place)}).one()
    if row.first_owner == row.last_owner:
        return max(clock.now, -1 if row.of_earlier is None else row.of_earlier + 1)
    return max(clock.now, clock.last, row.of_parents or 0) + 1


def _describe(place: Place) -> Columns:
    return {f"of_{name}": value for name, value in place._asdict().items()}


def _read_clock(session: Session, place: Place) -> _Clock:
    parameters = _describe(place)
    row = session.execute(_select_clock(), parameters).one()
    last = max(-1 if turn is None else turn for turn in (row.own_running, row.own_queued))
    now = row.line_running
    if row.same_queued is not None:
        # Jobs with these needs may be behind the line, for want of a slot. Then a new owner begins where they are.
        same = max(row.same_queued, row.same_running or 0)
        now = same if now is None else min(now, same)
    if now is None:
        now = session.scalar(_select_line_front(), parameters) or 0
    return _Clock(now, last)


def _is_queued(of: sa.FromClause) -> sa.ColumnElement[bool]:
    return in_state(JobState.QUEUED, of=of)


def _is_own_queued(of: sa.FromClause) -> sa.ColumnElement[bool]:
    return in_state_of_owner(JobState.QUEUED, sa.bindparam("of_owner"), of)


def list_needs(is_met: Callable[[sa.FromClause], sa.ColumnElement[bool]] = _is_queued) -> sa.CTE:
    """Return the different needs of queued jobs, with null at the end. It jumps from each to the next in an index."""
    following = jobs.alias("following")
    needs = sa.select(sa.func.min(jobs.c.needs).label("needs")).where(is_met(jobs)).cte("needs", recursive=True)
    next_needs = sa.select(sa.func.min(following.c.needs)).where(is_met(following), following.c.needs > needs.c.needs)
    return needs.union_all(sa.select(next_needs.scalar_subquery()).where(needs.c.needs.is_not(None)))


_OF_PRIORITY = jobs.c.priority == sa.bindparam("of_priority")
_IN_LINE = (_OF_PRIORITY, jobs.c.queue == sa.bindparam("of_queue"), jobs.c.device == sa.bindparam("of_device"))
_OF_NEEDS = jobs.c.needs == sa.bindparam("of_needs", type_=sa.String())


@functools.cache
def _select_surroundings() -> sa.Select[Any]:
    """Return the query for the turns of a job's parents and of the job before it, and for the owners in the queue."""
    of_parents = (
        sa.select(sa.func.max(jobs.c.turn))
        .join(dependencies, dependencies.c.depends_on == jobs.c.id)
        .where(dependencies.c.job_id == sa.bindparam("of_job"), jobs.c.owner == sa.bindparam("of_owner"), *_IN_LINE)
    )
    this = jobs.alias("this")
    number = sa.select(this.c.number).where(this.c.id == sa.bindparam("of_job")).scalar_subquery()
    columns = (jobs.c.state, jobs.c.priority, jobs.c.queue, jobs.c.device)
    before = (
        sa.select(jobs.c.number, jobs.c.turn, *columns)
        .where(jobs.c.finished_at.is_(None), jobs.c.number < number)
        .order_by(jobs.c.number.desc())
        .limit(_NUM_EXAMINED)
        .subquery("before")
    )
    of_earlier = (
        sa.select(before.c.turn)
        .where(
            in_state(JobState.QUEUED, of=before),
            *(before.c[name] == sa.bindparam(f"of_{name}") for name in ("priority", "queue", "device")),
        )
        .order_by(before.c.number.desc())
        .limit(1)
    )
    first_owner, last_owner = (
        sa.select(extreme(jobs.c.owner)).where(jobs.c.finished_at.is_(None)) for extreme in (sa.func.min, sa.func.max)
    )
    return sa.select(
        of_parents.scalar_subquery().label("of_parents"),
        of_earlier.scalar_subquery().label("of_earlier"),
        first_owner.scalar_subquery().label("first_owner"),
        last_owner.scalar_subquery().label("last_owner"),
    )


def _select_turn(needs: sa.CTE, is_met: sa.ColumnElement[bool], *, is_last: bool) -> sa.ScalarSelect[int]:
    """Return the first or last turn of queued jobs with certain needs, null if they are of another line.

    All jobs with equal needs have one queue and device, so that one of them tells.
    """
    order = [column.desc() if is_last else column for column in (jobs.c.turn, jobs.c.number)]
    found = (
        sa.select(jobs.c.turn, jobs.c.queue, jobs.c.device)
        .where(is_met, _OF_PRIORITY, jobs.c.needs == needs.c.needs)
        .order_by(*order)
        .limit(1)
        .correlate(needs)
        .subquery("found")
    )
    is_in_line = (found.c.queue == sa.bindparam("of_queue"), found.c.device == sa.bindparam("of_device"))
    return sa.select(found.c.turn).where(*is_in_line).scalar_subquery()


@functools.cache
def _select_clock() -> sa.Select[Any]:
    own = jobs.c.owner == sa.bindparam("of_owner")
    running = (
        sa.select(
            sa.func.max(jobs.c.turn).label("line_running"),
            sa.func.max(sa.case((own, jobs.c.turn))).label("own_running"),
            sa.func.max(sa.case((_OF_NEEDS, jobs.c.turn))).label("same_running"),
        )
        .where(in_state(JobState.RUNNING), *_IN_LINE)
        .subquery("running")
    )
    own_needs = list_needs(_is_own_queued)
    own_turn = _select_turn(own_needs, _is_own_queued(jobs), is_last=True)
    own_queued = sa.select(sa.func.max(own_turn)).where(own_needs.c.needs.is_not(None))
    same = (
        sa.select(jobs.c.turn, jobs.c.fence)
        .where(in_state(JobState.QUEUED), _OF_PRIORITY, _OF_NEEDS)
        .order_by(jobs.c.turn, jobs.c.number)
        .limit(_NUM_EXAMINED)
        .subquery("same")
    )
    # A job that returned to the queue kept its turn, which tells nothing about the clock.
    same_queued = sa.select(sa.func.min(same.c.turn)).where(same.c.fence == 0)
    return sa.select(
        running, own_queued.scalar_subquery().label("own_queued"), same_queued.scalar_subquery().label("same_queued")
    )


@functools.cache
def _select_line_front() -> sa.Select[Any]:
    needs = list_needs()
    turn = _select_turn(needs, _is_queued(jobs), is_last=False)
    return sa.select(sa.func.min(turn)).where(needs.c.needs.is_not(None))
