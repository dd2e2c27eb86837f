"""Workers: their registration, heartbeats and requested states."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import jobs
from finch_hub.registry.transitions import in_state
from finch_hub.registry.types import UNKNOWN_TIME, Columns, Json, insert_new, later, now, subset
from finch_hub.specs.jobs import JobState

workers = tables.Worker.__table__
_VALUE_COLUMNS = (values.Worker.model_fields.keys() & workers.c.keys()) - {"state"}

SILENT_SECONDS = 60.0  # without a heartbeat for this long, a worker counts as silent
GONE = ("stopped", "silent")
RequestedState = Literal["active", "draining", "stopping"]
HANDS_OVER = "hands its devices over to a worker that waits for them"
"""Remark of a worker that ends by itself, so that nobody needs to do anything."""


def register(session: Session, worker: values.WorkerDescription, *, replaces: str | None = None) -> values.Worker:
    """Register a worker that starts.

    Args:
        replaces: instance of a worker of the same name that has ended, however recent its heartbeat.

    Raises:
        Conflict: a worker of that name is alive.
    """
    if not _insert(session, worker, secrets.token_hex(8), replaces=replaces):
        running = get(session, worker.id)
        raise errors.Conflict(
            f"cannot start worker {worker.id!r}: a worker of that name runs on {running.hostname} as process"
            f" {running.pid} (choose another name, or stop that worker)"
        )
    return get(session, worker.id)


def _insert(session: Session, worker: values.WorkerDescription, instance: str, *, replaces: str | None = None) -> bool:
    """Insert the row of a worker, unless one of that name is alive, and return whether it did."""
    session.execute(
        sa.delete(workers).where(
            workers.c.id == worker.id,
            sa.or_(workers.c.state == "stopped", ~_is_recent(), workers.c.instance == replaces),
        )
    )
    described = values.WorkerDescription.model_fields.keys() - {"schema_revision"}
    row = worker.model_dump(mode="json", include=described)
    row |= {"schema": worker.schema_revision, "instance": instance, "state": "active"}
    return session.scalar(insert_new(session, workers, "id").values(**row).returning(workers.c.id)) is not None


def heartbeat(
    session: Session,
    worker: values.Worker,
    devices: Sequence[values.Device] | None = None,
    *,
    remark: str | None = None,
) -> RequestedState:
    """Record a sign of life of a worker, and return its requested state.

    A worker whose row is gone is registered again: a failover of the database may have lost it.

    Args:
        worker: the worker as it was when it was registered.
        remark: why the worker claims no jobs; None if it does.

    Raises:
        Conflict: another worker took over the name during a silence, or the row has a state that cannot be requested.
    """
    changes: Columns = {"last_seen": now(), "remark": remark}
    if devices is not None:
        changes["devices"] = [device.model_dump() for device in devices]
    statement = (
        sa.update(workers)
        .where(workers.c.id == worker.id, workers.c.instance == worker.instance)
        .values(changes)
        .returning(workers.c.state)
    )
    state = session.scalar(statement)
    if state is None and _insert(session, worker, worker.instance):
        state = session.scalar(statement)
    if state is None:
        what = f"another worker is registered as {worker.id!r}, because this one sent no heartbeat for too long"
        raise errors.Conflict(f"{what} (start it again)")
    if state not in get_args(RequestedState):
        what = f"worker {worker.id!r} has the state {state!r} in the database, which its version does not know"
        raise errors.Conflict(f"{what} (start it again)")
    return cast(RequestedState, state)


def get(session: Session, worker_id: str) -> values.Worker:
    """Return the worker of that name.

    Raises:
        NotFound: no such worker is registered.
    """
    known = {worker.id: worker for worker in find(session)}
    if worker_id not in known:
        raise errors.NotFound("worker", worker_id, known)
    return known[worker_id]


def find(session: Session, *, silent_after: float = SILENT_SECONDS) -> list[values.Worker]:
    """Return all registered workers by name, with the jobs that they run.

    A worker without a heartbeat for `silent_after` seconds is `silent`.
    """
    running: dict[str, list[str]] = {}
    for job_id, worker_id in session.execute(
        sa.select(jobs.c.id, jobs.c.worker).where(in_state(JobState.RUNNING)).order_by(jobs.c.number)
    ):
        running.setdefault(worker_id, []).append(job_id)
    silent = sa.and_(workers.c.state != "stopped", ~_is_recent(silent_after))
    rows = session.execute(
        sa.select(workers, sa.case((silent, "silent"), else_=workers.c.state).label("current_state")).order_by(
            workers.c.id
        )
    )
    return [
        _read_worker(
            {column: row._mapping[column] for column in _VALUE_COLUMNS}
            | {
                "devices": _read_devices(row.devices),
                "schema_revision": row.schema,
                "state": row.current_state,
                "jobs": running.get(row.id, ()),
            }
        )
        for row in rows
    ]


_STAND_INS: Columns = {"hostname": "", "pid": 0, "version": "", "devices": (), "schema_revision": "", "instance": ""}
_STAND_INS |= {"state": "silent", "started_at": UNKNOWN_TIME, "last_seen": UNKNOWN_TIME}


def _read_worker(fields: Columns) -> values.Worker:
    """Return a worker. Where its row is damaged, its remark says so: it must not hide other workers."""
    try:
        return values.Worker.of_stored(fields)
    except errors.InvalidSpec as error:
        invalid = {problem.where.partition(".")[0] for problem in error.problems}
        readable = {name: value for name, value in fields.items() if name not in invalid}
        remark = f"its row in the database is damaged: {'; '.join(map(str, error.problems))}"
        return values.Worker(**(_STAND_INS | readable | {"remark": remark}))


def _read_devices(stored: Any) -> list[values.Device]:
    """Return the devices that this version knows; a worker of another version may have further ones."""
    devices = []
    for device in stored if isinstance(stored, list) else ():
        with contextlib.suppress(errors.InvalidSpec):
            devices.append(values.Device.of_stored(device))
    return devices


def find_living(session: Session) -> list[str]:
    """Return the names of the workers that run. It reads columns of the first schema only, before an upgrade."""
    living = sa.select(workers.c.id).where(workers.c.state != "stopped", _is_recent())
    return list(session.scalars(living.order_by(workers.c.id)))


def find_idle(session: Session) -> list[values.Worker]:
    """Return the active workers with an idle slot that claim jobs.

    Jobs that may be trained together count as one, since one slot may run them. So a busy worker may be among these.
    """
    num_busy: dict[str, int] = {}
    for worker_id, number in session.execute(_COUNT_BUSY):
        num_busy[worker_id] = number
    return [
        worker
        for worker in find(session)
        if worker.state == "active" and worker.remark is None and num_busy.get(worker.id, 0) < worker.slots
    ]


_COUNT_BUSY = (
    sa.select(jobs.c.worker, sa.func.count(sa.distinct(sa.func.coalesce(jobs.c.gang, jobs.c.id))))
    .where(in_state(JobState.RUNNING))
    .group_by(jobs.c.worker)
)


def count_slots(session: Session, *, queue: str | None = None) -> int:
    """Return the number of jobs that all living workers together can run at a time.

    Args:
        queue: queue that the workers serve; None counts all workers.
    """
    slots = sa.select(sa.func.sum(workers.c.slots)).where(workers.c.state != "stopped", _is_recent())
    if queue is not None:
        slots = slots.where(subset(sa.literal([queue], Json), workers.c.queues))
    return int(session.scalar(slots) or 0)


def request_state(session: Session, worker_id: str, state: RequestedState) -> values.Worker:
    """Request that a worker goes on (`active`), claims no more jobs (`draining`) or stops (`stopping`).

    The worker learns it at its next heartbeat.

    Raises:
        NotFound: no such worker is registered.
        Conflict: the worker has stopped, or stops already.
    """
    worker = get(session, worker_id)
    if worker.state in GONE or (worker.state == "stopping" and state != "stopping"):
        raise errors.Conflict(f"cannot change worker {worker_id!r} to {state}: it is {worker.state}")
    changeable = workers.c.state.in_(["active", "draining", state])
    session.execute(sa.update(workers).where(workers.c.id == worker_id, changeable).values(state=state))
    return get(session, worker_id)


def mark_stopped(session: Session, worker_id: str, instance: str) -> None:
    """Record that a worker has stopped."""
    session.execute(
        sa.update(workers)
        .where(workers.c.id == worker_id, workers.c.instance == instance)
        .values(state="stopped", remark=None, last_seen=now())
    )


def forget(session: Session, *, silent: float, stopped: float) -> list[str]:
    """Delete the workers that are silent, or have been stopped, for so many seconds, and return their names."""
    has_ended = sa.and_(workers.c.state == "stopped", workers.c.last_seen < later(-stopped))
    is_gone = sa.or_(~_is_recent(silent), has_ended)
    return list(session.scalars(sa.delete(workers).where(is_gone).returning(workers.c.id)))


def _is_recent(silent_after: float = SILENT_SECONDS) -> sa.ColumnElement[bool]:
    """Return the condition that a worker sent a heartbeat lately. A clock that jumped may leave one of later."""
    return workers.c.last_seen.between(later(-silent_after), later(silent_after))
