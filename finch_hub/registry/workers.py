"""Workers: who is there, what they can do, and what they were told."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.attempts import misfits
from finch_hub.registry.transitions import in_state, jobs
from finch_hub.registry.types import insert_new, later, now
from finch_hub.specs.jobs import JobState, Requirements

workers = cast(sa.Table, tables.Worker.__table__)

SILENT_SECONDS = 60.0  # a worker that was not heard of for so long is taken for gone
_GONE = ("stopped", "silent")


def register(
    session: Session,
    worker_id: str,
    *,
    hostname: str,
    pid: int,
    version: str,
    schema_revision: str,
    devices: Sequence[values.Device],
    slots: int = 1,
    queues: Sequence[str] = ("default",),
    labels: Sequence[str] = (),
    silent_after: float = SILENT_SECONDS,
    replaces: str | None = None,
) -> values.Worker:
    """Enter a worker that starts.

    Args:
        replaces: the instance of a namesake that is known to be gone, though it was heard of a moment ago.

    Raises:
        Conflict: a worker of that name is alive.

    """
    row = {
        "id": worker_id,
        "instance": secrets.token_hex(8),
        "hostname": hostname,
        "pid": pid,
        "version": version,
        "schema": schema_revision,
        "slots": slots,
        "devices": [device.model_dump() for device in devices],
        "queues": list(queues),
        "labels": list(labels),
        "state": "active",
    }
    session.execute(
        sa.delete(workers).where(
            workers.c.id == worker_id,
            sa.or_(
                workers.c.state == "stopped", workers.c.last_seen < later(-silent_after), workers.c.instance == replaces
            ),
        )
    )
    entered = session.scalar(insert_new(session, workers, "id").values(**row).returning(workers.c.id))
    if entered is None:
        living = get(session, worker_id)
        raise errors.Conflict(
            f"a worker named {worker_id!r} is running on {living.hostname} as process {living.pid}:"
            " give this one another name, or stop that one"
        )
    return get(session, worker_id)


def heartbeat(
    session: Session, worker_id: str, instance: str, devices: Sequence[values.Device] | None = None
) -> Literal["active", "draining", "stopping"]:
    """Note that the worker lives, and return what it was told to do.

    Raises:
        Conflict: it was given up for gone and another one took its name, or its row was removed.

    """
    changes: dict[str, Any] = {"last_seen": now()}
    if devices is not None:
        changes["devices"] = [device.model_dump() for device in devices]
    state = session.scalar(
        sa.update(workers)
        .where(workers.c.id == worker_id, workers.c.instance == instance)
        .values(changes)
        .returning(workers.c.state)
    )
    if state is None:
        raise errors.Conflict(f"the worker named {worker_id!r} is another one now: this one was silent for too long")
    return cast(Literal["active", "draining", "stopping"], state)


def get(session: Session, worker_id: str) -> values.Worker:
    """Return a worker by its name.

    Raises:
        NotFound: none of that name ever registered, or it was forgotten.

    """
    found = [worker for worker in find(session) if worker.id == worker_id]
    if not found:
        raise errors.NotFound("worker", worker_id, session.scalars(sa.select(workers.c.id)))
    return found[0]


def find(session: Session, *, silent_after: float = SILENT_SECONDS) -> list[values.Worker]:
    """Return all known workers by name, with the jobs they hold; `silent` are those not heard of for so long."""
    held: dict[str, list[str]] = {}
    for job_id, worker_id in session.execute(
        sa.select(jobs.c.id, jobs.c.worker).where(in_state(JobState.RUNNING)).order_by(jobs.c.number)
    ):
        held.setdefault(worker_id, []).append(job_id)
    silent = sa.and_(workers.c.state != "stopped", workers.c.last_seen < later(-silent_after))
    rows = session.execute(
        sa.select(workers, sa.case((silent, "silent"), else_=workers.c.state).label("now")).order_by(workers.c.id)
    )
    return [
        values.Worker(
            id=row.id,
            instance=row.instance,
            hostname=row.hostname,
            pid=row.pid,
            version=row.version,
            schema_revision=row.schema,
            slots=row.slots,
            devices=tuple(values.Device(**device) for device in row.devices),
            queues=tuple(row.queues),
            labels=tuple(row.labels),
            state=row.now,
            jobs=tuple(held.get(row.id, ())),
            started_at=row.started_at,
            last_seen=row.last_seen,
        )
        for row in rows
    ]


def count_slots(session: Session, *, silent_after: float = SILENT_SECONDS) -> int:
    """Return how many jobs the living workers can run at a time."""
    alive = sa.select(sa.func.sum(workers.c.slots)).where(
        workers.c.state != "stopped", workers.c.last_seen >= later(-silent_after)
    )
    return int(session.scalar(alive) or 0)


def tell(session: Session, worker_id: str, state: Literal["active", "draining", "stopping"]) -> values.Worker:
    """Tell a worker to take no more jobs (`draining`), to end (`stopping`), or to go on; it hears at its heartbeat.

    Raises:
        NotFound: there is no such worker.
        Conflict: it has stopped, or was told to.

    """
    worker = get(session, worker_id)
    if worker.state in _GONE or (worker.state == "stopping" and state != "stopping"):
        raise errors.Conflict(f"worker {worker_id!r} is {worker.state}: there is nobody to tell")
    going = workers.c.state.in_(["active", "draining", state])
    session.execute(sa.update(workers).where(workers.c.id == worker_id, going).values(state=state))
    return get(session, worker_id)


def leave(session: Session, worker_id: str, instance: str) -> None:
    """Note that the worker has ended in order."""
    session.execute(
        sa.update(workers)
        .where(workers.c.id == worker_id, workers.c.instance == instance)
        .values(state="stopped", last_seen=now())
    )


def forget(session: Session, *, older_than: float) -> list[str]:
    """Remove the workers that were not heard of for so many seconds, and return their names."""
    return list(
        session.scalars(sa.delete(workers).where(workers.c.last_seen < later(-older_than)).returning(workers.c.id))
    )


def slots(worker: values.Worker) -> list[values.Capabilities]:
    """Return what the worker can take on, device by device; memory is all that the device has, free or not."""
    return [
        values.Capabilities(
            device=device.kind, memory_bytes=device.memory_bytes, queues=worker.queues, labels=worker.labels
        )
        for device in worker.devices
    ]


def fits(requirements: Requirements, worker: values.Worker) -> bool:
    """Tell whether a slot of the worker could run such a job."""
    return any(not misfits(requirements, slot) for slot in slots(worker))


def obstacles(requirements: Requirements, known: Sequence[values.Worker]) -> dict[str, list[str]]:
    """Return for each living worker why it can never run such a job; empty as soon as one can."""
    found: dict[str, list[str]] = {}
    for worker in known:
        if worker.state in _GONE:
            continue
        reasons = [misfits(requirements, slot) for slot in slots(worker)]
        if any(not reason for reason in reasons):
            return {}
        found[worker.id] = min(reasons, key=len, default=["has no device"])
    return found
