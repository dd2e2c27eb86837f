"""Measurements of the queue and the workers, which one process takes at a time and all of the deployment read.

So their cost does not grow with the number of those who want them.
"""

from __future__ import annotations

import collections
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import queue_status, workers
from finch_hub.registry.database import Database
from finch_hub.registry.queue_status import QueueDepth
from finch_hub.registry.tables import measurements as table
from finch_hub.registry.types import insert_new, later, now
from finch_hub.specs.value import Value

_NAME = "queue"
_TURN_SECONDS = 60.0  # until another process measures, if the one at it is gone


class Measurement(Value):
    """What was measured at a moment of the database's clock.

    Attributes:
        queued, waiting, running, unsettled, depths, oldest_seconds: as in `QueueStatus`.
        lost: number of jobs whose leases have ended, and which no sweep has queued again.
        workers: number of registered workers in each state.
    """

    at: datetime
    queued: int
    depths: tuple[QueueDepth, ...]
    waiting: int
    running: int
    lost: int
    unsettled: int
    oldest_seconds: float | None
    workers: dict[str, int]


def read(database: Database, *, every: float) -> Measurement | None:
    """Return the last measurement. If it is due and nobody else is at it, measure first.

    There is none while the first process of the deployment measures for the first time.

    Args:
        every: seconds between the beginnings of two measurements.
    """
    with database.read() as session:
        row = session.execute(_SELECT).one_or_none()
    if row is not None and not row.is_due:
        return _to_measurement(row.result)
    with database.write() as session:
        has_turn = _take_turn(session)
    if not has_turn:
        return None if row is None else _to_measurement(row.result)
    with database.read() as session:
        measured = _measure(session)
    with database.write() as session:
        changes = {"result": measured.model_dump(mode="json"), "due_at": later(every)}
        session.execute(sa.update(table).where(table.c.name == _NAME).values(changes))
    return measured


def _take_turn(session: Session) -> bool:
    """Keep others from measuring for a while, and return whether nobody else was first."""
    session.execute(insert_new(session, table, "name").values(name=_NAME, due_at=now()))
    turn = sa.update(table).where(table.c.name == _NAME, _is_due()).values(due_at=later(_TURN_SECONDS))
    return session.scalar(turn.returning(table.c.name)) is not None


def _measure(session: Session) -> Measurement:
    status = queue_status.read(session)
    return Measurement(
        **{name: getattr(status, name) for name in ("at", "queued", "depths", "waiting", "running", "unsettled")},
        lost=len(status.lost),
        oldest_seconds=status.oldest_seconds,
        workers=dict(collections.Counter(worker.state for worker in workers.find(session))),
    )


def _is_due() -> sa.ColumnElement[bool]:
    """Return the condition that the moment has come, or is so far off that a clock must have jumped."""
    return sa.or_(table.c.due_at <= now(), table.c.due_at > later(2 * _TURN_SECONDS))


def _to_measurement(stored: Any) -> Measurement | None:
    """Return a stored measurement, None if there is none yet, or one that this version cannot read."""
    try:
        return None if stored is None else Measurement.of_stored(stored)
    except errors.InvalidSpec:
        return None


_SELECT = sa.select(table.c.result, _is_due().label("is_due")).where(table.c.name == _NAME)
