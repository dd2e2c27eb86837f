"""Values that the registry accepts and returns, besides jobs and events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import pydantic

from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import Job, JobSpec, Label, Requirements
from finch_hub.specs.value import Digest, JsonObject, NonNegativeInt, Value

DeviceKind = Literal["cpu", "cuda"]
VersionKind = Literal["train", "compose", "import", "quantize"]
VersionState = Literal["ready", "quarantined", "below_retention", "unchecked"]
_WITHOUT_NUL = r"^[^\x00]*$"  # PostgreSQL does not store it


class Capabilities(Value):
    """A slot of a worker: its device with the free memory, its queues and labels, and what its code can read.

    Attributes:
        kinds: kinds of jobs that the worker knows; None for all.
        version: version of the worker's Finch Hub, whose `set_aside` jobs it leaves in the queue.
        worker: name of the worker, which leaves jobs that it passed on to others for a while.
        owner_running: number of running jobs of one owner from which on a claim passes over that owner; None sets no
            limit.
    """

    device: DeviceKind = "cpu"
    memory_bytes: NonNegativeInt
    queues: tuple[Label, ...] = ("default",)
    labels: tuple[Label, ...] = ()
    kinds: tuple[str, ...] | None = None
    version: str = ""
    worker: str = ""
    owner_running: pydantic.PositiveInt | None = None


class RetryPolicy(Value):
    """Number of attempts of a job, and the wait between them in seconds."""

    max_attempts: pydantic.PositiveInt = 3
    base_delay: pydantic.NonNegativeFloat = 10.0
    max_delay: pydantic.NonNegativeFloat = 600.0

    def delay(self, attempts: int) -> float:
        """Return the wait after a number of attempts. It doubles after each, up to `max_delay`."""
        return float(min(self.max_delay, self.base_delay * 2 ** min(max(attempts - 1, 0), 60)))


class NewJob(Value):
    """A job to submit.

    Attributes:
        spec: JSON of a `JobSpec`, from which `base_key` and `group_key` are taken.
        datasets: digests of the stored data sets that the job reads.
        owner: name with which the job takes turns with the jobs of others; empty for an unknown owner.
        idempotency_key: key with which a repeated submission returns the first job.
    """

    spec: JsonObject
    base_key: str | None = pydantic.Field(default=None, max_length=512)
    group_key: str | None = pydantic.Field(default=None, max_length=600)
    datasets: tuple[Digest, ...] = ()
    requirements: Requirements = Requirements()
    priority: int = pydantic.Field(default=0, ge=-1000, le=1000)
    owner: str = pydantic.Field(default="", max_length=96, pattern=_WITHOUT_NUL)
    depends_on: tuple[str, ...] = ()
    idempotency_key: str | None = pydantic.Field(default=None, min_length=1, max_length=200, pattern=_WITHOUT_NUL)
    retry_of: str | None = None

    @classmethod
    def of_spec(cls, spec: JobSpec, **fields: Any) -> Self:
        """Return the job for a specification, with its data sets unless others are given."""
        fields.setdefault("datasets", spec.datasets)
        return cls(spec=spec.model_dump(mode="json"), base_key=spec.base_key, group_key=spec.group_key, **fields)


class Renewal(Value):
    """A renewed lease, and whether a cancellation was requested."""

    lease_until: datetime
    cancel_requested: bool


class Attempt(Value):
    """An attempt of a job. `outcome` is None while it runs."""

    job_id: str
    fence: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None  # succeeded, failed, cancelled, lost or handed_back; another version may know others
    reason: str | None = None
    not_before: datetime | None = None  # when its worker may claim the job again


class StateChange(Value):
    """A change of a job's state that a listener is to hear.

    Attributes:
        job: the job as it was after the change.
        seq: number of the event that tells the change.
        failed_calls: number of calls that failed.
    """

    job: Job
    seq: int
    failed_calls: int = 0


class Listener(Value):
    """A listener of a plugin, and what it has not heard.

    Attributes:
        waiting: number of changes that it has not heard.
        skipped: number of changes that it will not hear, because too many calls failed, or they waited too long.
        trouble: why the last call failed; None after one that did not.
    """

    name: str
    waiting: int
    skipped: int
    trouble: str | None = None


class Device(Value):
    """A device of a worker."""

    kind: DeviceKind
    name: str
    memory_bytes: NonNegativeInt
    free_bytes: NonNegativeInt


class WorkerDescription(Value):
    """A worker as it describes itself when it starts. `id` is its name, `kinds` are those of jobs that it knows."""

    id: str
    hostname: str
    pid: int
    version: str
    schema_revision: str
    slots: int = 1
    devices: tuple[Device, ...]
    queues: tuple[str, ...] = ("default",)
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None


class Worker(WorkerDescription):
    """A worker at its last heartbeat.

    Attributes:
        instance: random text that differs between workers of the same name.
        remark: why the worker claims no jobs; None if it does.
    """

    instance: str
    state: Literal["active", "draining", "stopping", "stopped", "silent"]
    remark: str | None = None
    jobs: tuple[str, ...] = ()
    started_at: datetime
    last_seen: datetime


class Base(BaseDescription):
    """A registered base model."""

    id: int
    fingerprint: Annotated[str, pydantic.StringConstraints(pattern=r"^([0-9]+:)?[0-9a-f]{60,64}$")]
    created_at: datetime


class Dataset(Value):
    """A stored data set. After a purge only these fields are left.

    Attributes:
        of_jobs: whether only jobs have stored it, and no user has added it.
        license: license that a user gave for it; None if it is not known.
    """

    name: str | None = None
    digest: Digest
    format: str
    examples: int
    bytes: int
    of_jobs: bool = False
    license: str | None = None
    created_at: datetime
    purged_at: datetime | None = None


class ParentVersion(Value):
    """A parent of a version, with its weight."""

    reference: str
    weight: float = 1.0


class Lineage(Value):
    """Origin of a version's bytes.

    Attributes:
        train_digest: digest of the training examples.
        validation_digest: digest of the validation examples.
        seed: seed of all random numbers.
        versions: versions of the libraries and plugins.
        environment: threads, dtype, device and other influences on the bytes.
    """

    parents: tuple[ParentVersion, ...] = ()
    train_digest: Digest | None = None
    validation_digest: Digest | None = None
    seed: int | None = None
    versions: dict[str, str] = pydantic.Field(default={})
    environment: JsonObject = pydantic.Field(default={})


def read_restriction(origin: object) -> VersionState | None:
    """Return the state in a record of another hub, if it keeps a version from use."""
    state = origin.get("state") if isinstance(origin, dict) else None
    if state == "quarantined":
        return "quarantined"
    return "below_retention" if state == "below_retention" else None


class AdapterVersion(Value):
    """An immutable version of an adapter.

    Attributes:
        description: what its adapter is for; the same for all versions of the adapter.
        card: text of its card for searches; `hub.adapters.card` returns the card.
        card_edited_at: when a user edited its card last; None if it is the written one.
        owner: who made it: the owner of its job, or who imported it; empty if an earlier hub did not record it.
        updated_at: when its card, notes, tags or aliases changed last; when it was made, if they never did.
    """

    name: str
    number: int
    digest: Digest
    identity: Digest
    base: Base
    state: VersionState
    kind: str  # a `VersionKind`; another version of Finch Hub may know others
    job_id: str | None = None
    spec: JsonObject = pydantic.Field(default={})
    metrics: JsonObject = pydantic.Field(default={})
    lineage: Lineage = Lineage()
    description: str = ""
    card: str = ""
    card_edited_at: datetime | None = None
    notes: str = ""
    owner: str = ""
    preset: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    purged_at: datetime | None = None

    @property
    def reference(self) -> str:
        """Reference of the version, such as `name/3`."""
        return f"{self.name}/{self.number}"

    @property
    def never_had_files(self) -> bool:
        """Whether it came with a bundle without its files, and is in lineages only."""
        return self.digest == self.identity

    @property
    def state_elsewhere(self) -> VersionState | None:
        """What keeps the version from use in the hub that bundled or pushed it, None if nothing does."""
        for origin in (self.spec.get("bundle"), self.lineage.environment.get("pulled")):
            if (state := read_restriction(origin)) is not None:
                return state
        return None

    @property
    def prompting(self) -> JsonObject:
        """What prompts to the adapter must have, for versions made from this one: `system` and `thinking`."""
        return {"system": self.spec.get("system"), "thinking": bool(self.spec.get("thinking"))}


class VersionFiles(Value):
    """Digest of a version's files, with its base and the specification of its job: all that most jobs need."""

    reference: str
    digest: Digest
    base: Base
    spec: JsonObject


class VersionPage(Value):
    """A page of versions. `next` is the cursor of the following page, None on the last one."""

    versions: tuple[AdapterVersion, ...]
    next: str | None = None


class NewestVersion(Value):
    """What a list of adapters shows of the newest version of one."""

    reference: str
    number: int
    state: VersionState
    kind: str
    base: str
    metrics: JsonObject = pydantic.Field(default={})
    created_at: datetime


class AdapterSummary(Value):
    """An adapter with its newest version. `latest` is its newest ready version, for which the bare name stands."""

    name: str
    description: str = ""
    versions: int
    newest: NewestVersion
    latest: int | None = None
    aliases: dict[str, int] = pydantic.Field(default={})


class AdapterPage(Value):
    """A page of adapters by name. `next` is the cursor of the following page, None on the last one."""

    adapters: tuple[AdapterSummary, ...]
    next: str | None = None


class ParentLink(Value):
    """A version, a parent that it was made from, and the parent's weight. Both are references."""

    version: str
    parent: str
    weight: float


Direction = Literal["ancestors", "descendants", "both"]
"""Which relatives of a version a graph of its lineage has."""


class LineageGraph(Value):
    """A version with all its ancestors, descendants or both, as a graph, because versions may share relatives.

    Attributes:
        versions: the version first, then its relatives, nearest first, each once.
        links: links between these versions.
        incomplete: references of versions with a parent whose row a damaged registry lacks.
    """

    versions: tuple[AdapterVersion, ...]
    links: tuple[ParentLink, ...] = ()
    incomplete: tuple[str, ...] = ()


class Evaluation(Value):
    """Metrics of an evaluator on a data set. `adapter` is None for the bare base."""

    base: str
    adapter: str | None = None
    dataset: Digest
    evaluator: str
    metrics: JsonObject
    job_id: str | None = None
    created_at: datetime
