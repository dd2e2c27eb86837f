"""Placement: the slots that meet a job's requirements. `claims.claim` decides by the same rules in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub.registry.values import Capabilities, Worker
from finch_hub.registry.workers import GONE
from finch_hub.specs.jobs import Job, Requirements


def list_misfits(requirements: Requirements, slot: Capabilities) -> list[str]:
    """Return the reasons why a job can never run on a slot, none if it can."""
    reasons = []
    if requirements.queue not in slot.queues:
        reasons.append(f"does not serve queue {requirements.queue!r}")
    if requirements.device not in ("any", slot.device):
        reasons.append(f"has no {requirements.device} device")
    if requirements.memory_bytes > slot.memory_bytes:
        reasons.append(
            f"has {slot.memory_bytes / 1e9:.1f} GB of memory,"
            f" but the job needs {requirements.memory_bytes / 1e9:.1f} GB"
        )
    if missing := sorted(set(requirements.labels) - set(slot.labels)):
        reasons.append(f"lacks the label{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    return reasons


def list_unreadable(job: Job, reader: Capabilities | Worker) -> list[str]:
    """Return the reason why the code of a slot or worker cannot read a job, none if it can."""
    if reader.kinds is not None and job.kind not in reader.kinds:
        return [f"does not know jobs of the kind {job.kind!r}"]
    if reader.version in job.set_aside:
        return [f"cannot read the job with its finch-hub {reader.version}"]
    return []


def list_slots(worker: Worker) -> list[Capabilities]:
    """Return one slot for each device of a worker, with all memory of the device."""
    return [
        Capabilities(device=device.kind, memory_bytes=device.memory_bytes, queues=worker.queues, labels=worker.labels)
        for device in worker.devices
    ]


def can_run(worker: Worker, requirements: Requirements) -> bool:
    """Return whether a worker has a slot that can run a job."""
    return any(not list_misfits(requirements, slot) for slot in list_slots(worker))


def list_obstacles(job: Job, workers: Sequence[Worker]) -> dict[str, list[str]]:
    """Return for each living worker why it does not run a job, nothing if any worker does."""
    obstacles: dict[str, list[str]] = {}
    for worker in workers:
        if worker.state in GONE:
            continue
        unreadable = list_unreadable(job, worker)
        if worker.remark is not None:
            unreadable.append(f"claims no jobs: {worker.remark}")
        elif worker.state != "active":
            unreadable.append(f"claims no jobs: it is {worker.state}")
        reasons = [unreadable + list_misfits(job.requirements, slot) for slot in list_slots(worker)]
        if any(not reason for reason in reasons):
            return {}
        obstacles[worker.id] = min(reasons, key=len, default=[*unreadable, "has no device"])
    return obstacles
