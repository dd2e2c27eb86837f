"""Settlements: what the end of a job means for its attempt and for the jobs that depend on it, however many they are.

The transaction that ends a job also settles its first dependents, so that the same worker can go on with one of them.
If more are left, it leaves a row in a table. Workers, and clients that cancelled a job, take these rows and settle a
bounded number of dependents in each transaction. A dependent that cannot be settled is set aside, with the reason in
its parent's row, and tried again later. It delays no other job.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session

from finch_hub.registry import turns
from finch_hub.registry.database import Database
from finch_hub.registry.tables import attempts, dependencies, jobs
from finch_hub.registry.tables import settlements as rows
from finch_hub.registry.transitions import (
    build_transition,
    drop_events,
    execute_transition,
    in_state_unindexed,
    insert_events,
)
from finch_hub.registry.types import Columns, has_come, is_ahead, later, now, one_of
from finch_hub.specs.jobs import JobState
from finch_hub.texts.secret_shapes import redact

_BATCH = 64  # dependents in one transaction; PostgreSQL keeps this many savepoints in memory
_AGAIN_SECONDS = 600.0  # until what could not be settled is tried again
_SOON_SECONDS = 10.0  # the same after an error that passes, such as a row that was locked for too long, or a deadlock
_MAX_TROUBLE = 500  # characters


@dataclass(slots=True)
class _Settlement:
    """A job that has ended, and how far its dependents are settled.

    Attributes:
        root_id: the job whose own end caused that of this job.
        settled: number of the last dependent that was looked at.
        trouble: why a dependent could not be settled.
        again_seconds: until a dependent that could not be settled is tried again.
        waiting: numbers and ids of the next dependents.
        has_more: whether there may be further ones.
    """

    job_id: str
    root_id: str
    settled: int = 0
    trouble: str | None = None
    again_seconds: float = _AGAIN_SECONDS
    waiting: collections.deque[tuple[int, str]] = field(default_factory=collections.deque)
    has_more: bool = True

    def load(self, session: Session) -> bool:
        """Find the next dependents if none are known. Return whether there are any."""
        if not self.waiting and self.has_more:
            parameters = {"parent": self.job_id, "after": self.settled, "limit": _BATCH}
            self.waiting.extend((row.number, row.id) for row in session.execute(_SELECT_DEPENDENTS, parameters))
            self.has_more = len(self.waiting) == _BATCH
        return bool(self.waiting)

    def add_trouble(self, error: Exception, what: str = "") -> None:
        """Note that something could not be carried out, so that it is tried again."""
        self.trouble = f"{what}{_describe(error)}"
        if isinstance(error, exc.OperationalError):
            self.again_seconds = _SOON_SECONDS


def end_attempt(session: Session, row: sa.Row[Any], outcome: str, reason: str | None) -> bool:
    """Close the record of an attempt, and return whether any job depends on its job.

    Args:
        row: the job after its change of state.
    """
    # A transaction that submits a dependent job locks this job's row. So this later statement sees all dependents.
    parameters = {"of_job": row.id, "of_fence": row.fence, "attempt_outcome": outcome, "attempt_reason": reason}
    has_dependents = session.scalar(_END_ATTEMPT, parameters)
    return has_dependents is None or bool(has_dependents)  # None: no such record, so that dependents are unknown


def settle_now(session: Session, job_id: str) -> None:
    """Settle the first dependents of a job that has just ended, and leave the others for later transactions."""
    _leave(session, _settle(session, [_Settlement(job_id, job_id)]))


def settle_later(session: Session, job_id: str) -> None:
    """Leave all dependents of a job that has just ended for later, because this transaction ends several jobs."""
    _leave(session, [_Settlement(job_id, job_id)])


def settle_due(database: Database) -> bool:
    """Settle some of the dependents that were left. Return false if there were none, else call this again."""
    with database.read() as session:
        if not session.scalar(_HAS_DUE):
            return False
    with database.write() as session:
        taken = [_Settlement(*row) for row in session.execute(_TAKE_DUE)]
        _remove(session, taken)
        ended = set(session.scalars(_SELECT_ENDED, {"of": [each.job_id for each in taken]}))
        for each in taken:
            each.trouble = each.trouble if each.settled else None  # a new pass
        _leave(session, _settle(session, [each for each in taken if each.job_id in ended]))
    return bool(taken)  # false if others are at it


def set_aside(session: Session, job_id: str, error: Exception) -> None:
    """Keep the reason why a lost job could not be ended, for a while in which nobody tries again."""
    settlement = _Settlement(job_id, job_id, has_more=False)
    settlement.add_trouble(error)
    _leave(session, [settlement])


def is_set_aside() -> sa.ColumnElement[bool]:
    """Return the condition that a lost job is set aside now."""
    return sa.exists().where(rows.c.job_id == jobs.c.id, is_ahead(rows.c.due_at))


def find_troubles(session: Session, *, limit: int = 100) -> dict[str, str]:
    """Return what could not be settled, by the id of the job that has ended or was lost."""
    found = session.execute(sa.select(rows.c.job_id, rows.c.trouble).where(rows.c.trouble.is_not(None)).limit(limit))
    return {row.job_id: row.trouble for row in found}


@contextlib.contextmanager
def isolate(session: Session) -> Iterator[None]:
    """Open a savepoint, to which an exception rolls back."""
    insert_events(session)
    try:
        with session.begin_nested():
            yield
    except BaseException:
        drop_events(session)
        raise


def _settle(session: Session, ended: Sequence[_Settlement]) -> list[_Settlement]:
    """Settle dependents of jobs that have ended, also those of dependents that fail by it. Return what is left.

    A dependent has a greater number than the jobs that it depends on. So the one with the lowest number is always
    next, and all transactions lock dependents in one order.
    """
    roots: dict[str, Any] = {
        row.id: row for row in session.execute(_SELECT_ROOTS, {"of": list({each.root_id for each in ended})})
    }
    settlements = list(ended)
    heap = [(each.waiting[0][0], place) for place, each in enumerate(settlements) if each.load(session)]
    heapq.heapify(heap)
    for _ in range(_BATCH):
        if not heap:
            break
        settlement = settlements[heap[0][1]]
        settlement.settled, job_id = settlement.waiting.popleft()
        try:
            with isolate(session):
                fails = _settle_one(session, job_id, settlement, roots.get(settlement.root_id))
        except Exception as error:
            settlement.add_trouble(error, f"job {job_id}: ")
            fails = False
        if settlement.load(session):
            heapq.heapreplace(heap, (settlement.waiting[0][0], heap[0][1]))
        else:
            heapq.heappop(heap)
        if fails:
            settlements.append(_Settlement(job_id, settlement.root_id))
            if settlements[-1].load(session):
                heapq.heappush(heap, (settlements[-1].waiting[0][0], len(settlements) - 1))
    return [each for each in settlements if each.waiting or each.has_more or each.trouble]


def _settle_one(session: Session, job_id: str, settlement: _Settlement, root: Any) -> bool:
    """Queue a job that waited only for a job that has succeeded, or fail one that waits for a job that has not.

    Return whether it fails.
    """
    if root is not None and root.state is JobState.SUCCEEDED:
        # It is locked first, and its parents are read later: of two parents that end at once, the second sees the
        # first.
        row = session.execute(_LOCK_WAITING, {"waiting_job": job_id}).one_or_none()
        if row is not None and not session.scalar(_HAS_UNSUCCESSFUL, {"waiting_job": job_id}):
            (turn,) = turns.assign_turns(session, [turns.Line(*row)])
            execute_transition(session, _queue(), JobState.QUEUED, {"waiting_job": job_id, "new_turn": turn})
        return False
    through = "" if settlement.job_id == settlement.root_id else f" through job {settlement.job_id}"
    how = "was cancelled" if root is not None and root.state is JobState.CANCELLED else "failed"
    why = f": {root.reason}" if root is not None and root.reason else ""
    reason = f"job {settlement.root_id}, which this job depends on{through}, {how}{why}"
    parameters = {"waiting_job": job_id, "new_reason": reason}
    return execute_transition(session, _fail(), JobState.FAILED, parameters) is not None


def _leave(session: Session, left: Sequence[_Settlement]) -> None:
    """Store what is left. A pass that met trouble is repeated later."""
    if left:
        _remove(session, left)
    for each in left:
        is_done = not each.waiting and not each.has_more
        row: Columns = {"job_id": each.job_id, "root_id": each.root_id, "trouble": each.trouble}
        row |= {"settled": 0, "due_at": later(each.again_seconds)} if is_done else {"settled": each.settled}
        session.execute(sa.insert(rows).values(row))


def _remove(session: Session, settlements: Sequence[_Settlement]) -> None:
    session.execute(sa.delete(rows).where(one_of(rows.c.job_id, [each.job_id for each in settlements])))


def _describe(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error  # the driver's error, without the statement
    return redact(str(cause).strip().partition("\n")[0])[:_MAX_TROUBLE] or type(cause).__name__


_END_ATTEMPT = (
    sa.update(attempts)
    .where(
        attempts.c.job_id == sa.bindparam("of_job"),
        attempts.c.fence == sa.bindparam("of_fence"),
        attempts.c.outcome.is_(None),
    )
    .values(ended_at=now(), outcome=sa.bindparam("attempt_outcome"), reason=sa.bindparam("attempt_reason"))
    .returning(sa.exists().where(dependencies.c.depends_on == sa.bindparam("of_job")))
)
_HAS_DUE = sa.select(sa.exists().where(has_come(rows.c.due_at)))
_TAKE_DUE = (
    sa.select(rows.c.job_id, rows.c.root_id, rows.c.settled, rows.c.trouble)
    .where(has_come(rows.c.due_at))
    .order_by(rows.c.due_at)
    .limit(_BATCH)
    .with_for_update(skip_locked=True)
)
_SELECT_ENDED = sa.select(jobs.c.id).where(one_of(jobs.c.id, "of"), jobs.c.finished_at.is_not(None))
_SELECT_ROOTS = sa.select(jobs.c.id, jobs.c.state, jobs.c.reason).where(one_of(jobs.c.id, "of"))
_SELECT_DEPENDENTS = (
    sa.select(jobs.c.number, jobs.c.id)
    .join(dependencies, dependencies.c.job_id == jobs.c.id)
    .where(
        dependencies.c.depends_on == sa.bindparam("parent"),
        in_state_unindexed(JobState.WAITING),
        jobs.c.number > sa.bindparam("after", type_=sa.BigInteger()),
    )
    .order_by(jobs.c.number)
    .limit(sa.bindparam("limit", type_=sa.Integer()))
)
_IS_WAITING = (jobs.c.id == sa.bindparam("waiting_job"), in_state_unindexed(JobState.WAITING))
_LOCK_WAITING = sa.select(*(jobs.c[name] for name in turns.Line._fields)).where(*_IS_WAITING).with_for_update()
_parent = jobs.alias("parent")
_HAS_UNSUCCESSFUL = sa.select(
    sa.exists().where(
        dependencies.c.job_id == sa.bindparam("waiting_job"),
        _parent.c.id == dependencies.c.depends_on,
        ~in_state_unindexed(JobState.SUCCEEDED, of=_parent),
    )
)


@functools.cache
def _queue() -> sa.Update:
    return build_transition(JobState.QUEUED, *_IS_WAITING, changes={"ring_at": now(), "turn": sa.bindparam("new_turn")})


@functools.cache
def _fail() -> sa.Update:
    return build_transition(JobState.FAILED, *_IS_WAITING, changes={"reason": sa.bindparam("new_reason")})
