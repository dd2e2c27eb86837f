"""Jobs of earlier runs of the demo, found in the hub by their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finch_hub import Hub, errors
from finch_hub.hub.jobs import JobHandle
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.value import JsonObject

_LIMIT = 1_000


def find(hub: Hub, kind: str, inputs: Mapping[str, object]) -> JobHandle | None:
    """Return the newest job of a kind with these inputs that has a result, or is to have one; None if there is none.

    Args:
        inputs: fields of the specification and their values. A dot separates a field from a field inside it.
    """
    states = {JobState.SUCCEEDED, JobState.RUNNING, JobState.QUEUED, JobState.WAITING}
    for job in hub.jobs.find(kind=kind, states=states, limit=_LIMIT):
        has_inputs = all(_value(job.spec, name) == value for name, value in inputs.items())
        if has_inputs and not job.cancel_requested and (job.state != JobState.SUCCEEDED or _is_kept(hub, job)):
            return hub.jobs.get(job.id)
    return None


def _value(spec: JsonObject, name: str) -> object:
    value: object = spec
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_kept(hub: Hub, job: Job) -> bool:
    """Tell whether the result of a job still exists."""
    result = job.result or {}
    if result.get("adapter") is not None:
        try:
            hub.adapters.get(result["adapter"])
        except errors.NotFound:
            return False
    out = (result.get("report") or {}).get("out")
    return out is None or (Path(out) / "config.json").exists()
