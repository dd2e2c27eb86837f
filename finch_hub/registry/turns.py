"""Turns: numbers by which the owners of queued jobs take turns.

A job gets its turn when it is queued for the first time, by start-time fair queueing (Goyal, Vin and Cheng, 1996)::

    turn = max(front, claimed + 1, last + 1)

`front` is the smallest turn in the queue, and `claimed` the greatest that was claimed. `last` is the greatest turn of
the owner's jobs in the same line: those of one priority, queue and device. So a new owner begins where the others are,
and an owner has one job in each turn. A claim takes the smallest turn, and among equal turns the first owner by name.
A job that returns to the queue keeps its turn.

A line without a worker, or with slow jobs, is behind others. So its own jobs tell `front` and `claimed`. If none is
queued, all jobs of the priority tell `claimed`, so that no line begins before the others. Queued jobs that none of the
line's workers can run now count as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import placement, workers
from finch_hub.registry.tables import jobs
from finch_hub.registry.types import Columns, is_ahead, is_stored_as
from finch_hub.registry.values import Worker
from finch_hub.specs.jobs import JobState, Requirements

_MAX_TURN: int = 2**62  # a damaged turn may be greater, and none is greater than 2**63 - 1
_NUM_EXAMINED = 64  # jobs of a line of which one may fit its workers


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
            following[line] = _find_start(session, line)
        turns.append(following[line])
        following[line] += 1
    return turns


def _find_start(session: Session, line: Line) -> int:
    """Return the turn of the next job of a line."""
    parameters = {f"of_{name}": value for name, value in line._asdict().items()}
    reached = session.execute(_SELECT_REACHED, parameters).one()
    front, claimed = reached.front, reached.of_line
    if None not in (front, claimed) and front < claimed:  # it was passed over
        front = session.scalar(_SELECT_FRONT, parameters | {"least_turn": claimed})
    if None not in (front, reached.of_all) and front < reached.of_all:
        front = _find_fitting_front(session, line, parameters, front)
    if front is None:
        claimed = reached.of_all
    candidates: list[int] = [front or 0, *(turn + 1 for turn in (claimed, reached.last) if turn is not None)]
    return min(max(candidates), _MAX_TURN)


def _find_fitting_front(session: Session, line: Line, parameters: Columns, front: int) -> int | None:
    """Return the turn of the first job of a line behind others that a worker can run now, None if there is none.

    Jobs that fit no worker do not move, and would keep their turns for new jobs of the line. It looks at few jobs. A
    line that no worker serves keeps its front.
    """

    def serves(worker: Worker) -> bool:
        has_device = line.device == "any" or any(device.kind == line.device for device in worker.devices)
        return worker.state == "active" and has_device and line.queue in worker.queues

    serving = [worker for worker in workers.find(session) if serves(worker)]
    if not serving:
        return front
    for row in session.execute(_SELECT_FIRST, parameters | {"least_turn": front}):
        if not row.waits and any(_can_run(worker, row) for worker in serving):
            return int(row.turn)
    return None


def _can_run(worker: Worker, row: sa.Row[Any]) -> bool:
    requirements = Requirements.model_construct(
        queue=row.queue, device=row.device, memory_bytes=row.memory_bytes, labels=_read_texts(row.labels)
    )
    is_known = worker.kinds is None or row.kind in worker.kinds
    return is_known and worker.version not in _read_texts(row.set_aside) and placement.can_run(worker, requirements)


def _read_texts(stored: Any) -> tuple[str, ...]:
    """Return stored texts. Damaged ones count as none, as in `types.subset`."""
    return tuple(map(str, stored)) if isinstance(stored, list) else ()


_OF_PRIORITY = jobs.c.priority == sa.bindparam("of_priority")
_OF_LINE = (_OF_PRIORITY, jobs.c.queue == sa.bindparam("of_queue"), jobs.c.device == sa.bindparam("of_device"))
# It may be damaged.
_IS_TURN = sa.and_(jobs.c.turn < sa.literal_column(str(_MAX_TURN)), is_stored_as("integer", jobs.c.turn))
_GREATEST = sa.select(sa.func.max(jobs.c.turn)).where(_IS_TURN)
_IS_QUEUED = sa.func.lower(jobs.c.state) == sa.literal_column("'queued'")
_IS_IN_FRONT = (_IS_QUEUED, *_OF_LINE, jobs.c.turn >= sa.bindparam("least_turn", type_=sa.BigInteger()), _IS_TURN)
_SELECT_FRONT = sa.select(sa.func.min(jobs.c.turn)).where(*_IS_IN_FRONT)
_COLUMNS: list[sa.ColumnElement[Any]] = [
    *(jobs.c[name] for name in ("turn", "kind", "queue", "device", "memory_bytes", "labels", "set_aside")),
    is_ahead(jobs.c.not_before).label("waits"),
]
_SELECT_FIRST = sa.select(*_COLUMNS).where(*_IS_IN_FRONT).order_by(jobs.c.turn).limit(_NUM_EXAMINED)


def _select_reached() -> sa.Select[Any]:
    """Select the turns at the front of a line, that were claimed of it and of all, and of the owner's last job.

    The conditions of each are those of its own index (see `tables`).
    """
    first = sa.select(sa.func.min(jobs.c.turn)).where(_IS_QUEUED, *_OF_LINE, _IS_TURN)
    of_line = _GREATEST.where(jobs.c.started_at.is_not(None), *_OF_LINE)
    of_all = _GREATEST.where(jobs.c.fence > sa.literal_column("0"), _OF_PRIORITY)
    is_unfinished = sa.func.upper(jobs.c.state).in_(
        [sa.literal_column(f"'{state.name}'") for state in (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)]
    )
    last = _GREATEST.where(is_unfinished, jobs.c.owner == sa.bindparam("of_owner"), *_OF_LINE)
    turns = {"front": first, "of_line": of_line, "of_all": of_all, "last": last}
    return sa.select(*(query.scalar_subquery().label(name) for name, query in turns.items()))


_SELECT_REACHED = _select_reached()
