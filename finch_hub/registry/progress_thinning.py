"""Thinning of the progress events of a job, of which a training of days would have a million.

Whenever a job has reported some more events, its earlier progress is thinned to a bounded number, evenly over the
numbers of its events. A job reports at a steady rate while it works. So curves keep their shape, and a wait in the
queue takes no place. Events of all other types stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import job_events
from finch_hub.registry.transitions import insert_events

EVERY = 256  # events of a job
KEPT = 300  # at most, of the steps of a training, and as many of all other work


def thin_progress(session: Session, job_id: str, last: int, added: int) -> None:
    """Delete some progress of a job, if the events that were just added end a round.

    Args:
        last: number of the last event.
        added: number of events that were added.
    """
    if last // EVERY == (last - added) // EVERY:
        return
    insert_events(session)
    columns: Sequence[sa.ColumnElement[Any]] = (job_events.c.seq, job_events.c.data)
    rows = session.execute(
        sa.select(*columns)
        .where(job_events.c.job_id == job_id, job_events.c.type == "progress")
        .order_by(job_events.c.seq)
    ).all()
    steps = [row for row in rows if not _is_of_other_work(row)]
    others = [row for row in rows if _is_of_other_work(row)]
    kept = [row.seq for row in (*_pick(steps), *_pick(others))]
    # The kept ones are named, not the others: a job of an earlier version may have more than a statement can name.
    is_surplus = (job_events.c.type == "progress", job_events.c.seq.not_in(kept))
    session.execute(sa.delete(job_events).where(job_events.c.job_id == job_id, *is_surplus))


def _is_of_other_work(row: sa.Row[Any]) -> bool:
    return isinstance(row.data, dict) and row.data.get("unit") is not None


def _pick(rows: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
    """Return the first row of each range of numbers, and the last row.

    The ranges are of one size, a power of two, so that larger ones consist of the earlier ones.
    """
    if len(rows) <= KEPT:
        return list(rows)
    size = 2 ** math.ceil(math.log2((rows[-1].seq - rows[0].seq) / (KEPT - 2)))
    first = {row.seq // size: row for row in reversed(rows)}
    return [*first.values(), rows[-1]]
