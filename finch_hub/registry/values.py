"""What the registry returns and takes besides jobs and their events: frozen, readable as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

import pydantic

from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import Digest, JobSpec, Label, Requirements
from finch_hub.specs.value import Value

DeviceKind = Literal["cpu", "cuda"]
VersionKind = Literal["train", "compose", "import", "quantize"]
VersionState = Literal["ready", "quarantined", "below_retention"]


class Capabilities(Value):
    """What one slot of a worker can take on: its device, the memory free on it, its queues and labels."""

    device: DeviceKind = "cpu"
    memory_bytes: pydantic.NonNegativeInt
    queues: tuple[Label, ...] = ("default",)
    labels: tuple[Label, ...] = ()


class RetryPolicy(Value):
    """How often a job is tried, and how long it waits before it is tried again."""

    max_attempts: pydantic.PositiveInt = 3
    base_delay: pydantic.NonNegativeFloat = 10.0
    max_delay: pydantic.NonNegativeFloat = 600.0

    def delay(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts: the base, doubled each time, up to the most."""
        return float(min(self.max_delay, self.base_delay * 2 ** min(max(attempts - 1, 0), 60)))


class NewJob(Value):
    """A job to submit.

    Attributes:
        spec: JSON of a `JobSpec`.
        base_key: its `JobSpec.base_key`.
        group_key: its `JobSpec.group_key`.
        idempotency_key: makes a repeated submission return the first one's job.

    """

    spec: dict[str, Any]
    base_key: str | None = None
    group_key: str | None = None
    requirements: Requirements = Requirements()
    priority: int = pydantic.Field(default=0, ge=-1000, le=1000)
    depends_on: tuple[str, ...] = ()
    idempotency_key: str | None = pydantic.Field(default=None, min_length=1, max_length=200)
    retry_of: str | None = None

    @classmethod
    def of_spec(cls, spec: JobSpec, **fields: Any) -> Self:
        """Return the job that a specification asks for."""
        data = spec.model_dump(mode="json")
        return cls(spec=data, base_key=spec.base_key, group_key=spec.group_key, **fields)


class Renewal(Value):
    """A renewed lease, and whether somebody wants the job cancelled."""

    lease_until: datetime
    cancel_requested: bool


class Attempt(Value):
    """One claim of a job; `outcome` is None while it runs."""

    job_id: str
    fence: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: Literal["succeeded", "failed", "cancelled", "lost", "handed_back"] | None = None
    reason: str | None = None


class Device(Value):
    """A device of a worker."""

    kind: DeviceKind
    name: str
    memory_bytes: pydantic.NonNegativeInt
    free_bytes: pydantic.NonNegativeInt


class Worker(Value):
    """A worker as it last reported itself; `instance` tells it from a namesake started later."""

    id: str
    instance: str
    hostname: str
    pid: int
    version: str
    schema_revision: str
    slots: int
    devices: tuple[Device, ...]
    queues: tuple[str, ...]
    labels: tuple[str, ...]
    state: Literal["active", "draining", "stopping", "stopped", "silent"]
    jobs: tuple[str, ...] = ()
    started_at: datetime
    last_seen: datetime


class Base(BaseDescription):
    """A base model that adapters were made for."""

    id: int
    fingerprint: Digest
    created_at: datetime


class Dataset(Value):
    """A stored data set; after a purge only its hash and figures are left."""

    name: str | None = None
    digest: Digest
    format: str
    examples: int
    bytes: int
    created_at: datetime
    purged_at: datetime | None = None


class ParentVersion(Value):
    """A version that another was made from, and its weight in it."""

    reference: str
    weight: float = 1.0


class Lineage(Value):
    """Where a version's bytes come from.

    Attributes:
        parents: `name/number` of the versions that it was made from, with weights.
        train_digest: of the examples that it was trained on.
        validation_digest: of the examples that it was measured on.
        seed: of everything random.
        versions: of the libraries and plugins.
        environment: threads, dtype, device and what else the bytes depend on.

    """

    parents: tuple[ParentVersion, ...] = ()
    train_digest: Digest | None = None
    validation_digest: Digest | None = None
    seed: int | None = None
    versions: dict[str, str] = pydantic.Field(default={})
    environment: dict[str, Any] = pydantic.Field(default={})


class AdapterVersion(Value):
    """One immutable version of an adapter."""

    name: str
    number: int
    digest: Digest
    identity: Digest
    base: Base
    state: VersionState
    kind: VersionKind
    job_id: str | None = None
    spec: dict[str, Any] = pydantic.Field(default={})
    metrics: dict[str, Any] = pydantic.Field(default={})
    lineage: Lineage = Lineage()
    card: str = ""
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    created_at: datetime
    deleted_at: datetime | None = None

    @property
    def reference(self) -> str:
        """The version as users write it: `name/3`."""
        return f"{self.name}/{self.number}"


class VersionFiles(Value):
    """What a job needs to use a version: its stored tree of files, and its base."""

    reference: str
    digest: Digest
    base: Base


class AdapterSummary(Value):
    """An adapter name with its newest version; `latest` is the newest ready one, which the bare name means."""

    name: str
    versions: int
    newest: AdapterVersion
    latest: int | None = None
    aliases: dict[str, int] = pydantic.Field(default={})


class Ancestry(Value):
    """A version with all that it descends from; `weight` is its part in the version above it."""

    version: AdapterVersion
    weight: float = 1.0
    parents: tuple[Ancestry, ...] = ()


class Evaluation(Value):
    """What one evaluator measured on one data set; `adapter` is None for the bare base."""

    base: str
    adapter: str | None = None
    dataset: Digest
    evaluator: str
    metrics: dict[str, Any]
    job_id: str | None = None
    created_at: datetime
