"""Jobs: what can be asked for, and the states it goes through."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypedDict

import pydantic

from finch_hub.specs.lora import LoRAConfig, LoRAOptions
from finch_hub.specs.references import AdapterReference, check_name
from finch_hub.specs.training import TrainingConfig, TrainingOptions
from finch_hub.specs.value import Value

Digest = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AdapterName = Annotated[str, pydantic.AfterValidator(lambda name: check_name(name))]
Label = Annotated[str, pydantic.AfterValidator(lambda text: check_label(text))]
AdapterRef = Annotated[str, pydantic.AfterValidator(lambda text: str(AdapterReference.parse(text)))]


def check_label(text: str) -> str:
    """Return the name of a queue, a worker or a label of one, if it is fit to be one.

    Raises:
        ValueError: says what it may consist of.

    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}", text):
        raise ValueError(f"{text!r} is no name; use up to 96 letters, digits and . _ : -")
    return text


class BaseModelSource(Value):
    """Where a base model comes from: a Hugging Face id with revision, a local folder, or a GGUF file."""

    source: str = pydantic.Field(min_length=1)
    revision: str | None = None

    @property
    def key(self) -> str:
        """Name of the base among warm workers; its fingerprint is not known before it is loaded."""
        return f"{self.source}@{self.revision or ''}"[:512]


_LARGEST = 1e6  # weight or scale; squares of what they multiply must not overflow


class Parent(Value):
    """One adapter that goes into a composition or merge, and its weight."""

    adapter: AdapterRef
    weight: float = pydantic.Field(default=1.0, ge=-_LARGEST, le=_LARGEST)


class JobSpec(Value):
    """Request for a job; each kind has its own, with `kind` as its name.

    Attributes:
        base_key: key of the base that the job loads, None where its adapters tell it.
        group_key: equal for jobs that can be trained in one step, None for other kinds.

    """

    kind: str

    @property
    def base_key(self) -> str | None:  # noqa: D102 - see the class
        return None

    @property
    def group_key(self) -> str | None:  # noqa: D102 - see the class
        return None


class TrainSpec(JobSpec):
    """Train one adapter on a data set; `train` and `validation` are digests of stored examples."""

    kind: Literal["train"] = "train"
    adapter: AdapterName
    base: BaseModelSource
    train: Digest
    validation: Digest | None = None
    preset: str | None = None
    system: str | None = None
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def base_key(self) -> str:  # noqa: D102 - see the base class
        return self.base.key

    @property
    def group_key(self) -> str:  # noqa: D102 - see the base class
        return f"{self.base.key} {self.training.dtype} {self.training.threads}"


class TrainOptions(LoRAOptions, TrainingOptions, total=False):
    """Settings of `Hub.train` that win over the preset's."""


class ComposeSpec(JobSpec):
    """Compose several adapters of one base into one.

    Attributes:
        adapter: name of the result.
        parents: two or more adapters (one is returned as it is).
        strategy: name of a strategy plugin, or "auto", which measures several and keeps the best.
        parameters: of the strategy, checked against its schema.
        resolver: name of a conflict-resolver plugin, run before the strategy.
        resolver_parameters: of the resolver.
        scale: factor of the composed update; None sweeps it on the parents' validation sets where there are any.
        rank: of the result; None keeps what the strategy gives, "auto" cuts by energy.
        evaluations: upper bound of the held-out evaluations that the search may spend; beside a named strategy one of
            them is plain linear's.
        min_retention: below it, for any parent, the version is registered as `below_retention`.
        seed: of random strategies, mixed with the parents' hashes.

    """

    kind: Literal["compose"] = "compose"
    adapter: AdapterName
    parents: tuple[Parent, ...] = pydantic.Field(min_length=1)
    strategy: str = "auto"
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    resolver: str = "keep"
    resolver_parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    scale: float | None = pydantic.Field(default=None, gt=0, le=_LARGEST)
    rank: pydantic.PositiveInt | Literal["auto"] | None = None
    evaluations: pydantic.PositiveInt = 16
    min_retention: float | None = pydantic.Field(default=None, le=1)
    seed: pydantic.NonNegativeInt = 0


class ComposeOptions(TypedDict, total=False):
    """Fields of `ComposeSpec` as keyword arguments of `Hub.compose`, without those that have a parameter of their own."""

    strategy: str
    parameters: dict[str, Any]
    resolver: str
    resolver_parameters: dict[str, Any]
    scale: float | None
    rank: int | Literal["auto"] | None
    evaluations: int
    min_retention: float | None
    seed: int


class MergeSpec(JobSpec):
    """Write the base with adapters folded into its weights as a standalone model folder.

    Attributes:
        out: the folder, on the worker's disk.
        replace: replace an earlier merge there.

    """

    kind: Literal["merge"] = "merge"
    parents: tuple[Parent, ...] = pydantic.Field(min_length=1)
    out: str = pydantic.Field(min_length=1)
    replace: bool = False


class QuantizeSpec(JobSpec):
    """Store an adapter at fewer bits as a new version of it."""

    kind: Literal["quantize"] = "quantize"
    adapter: AdapterRef
    scheme: Literal["auto", "int8", "int4"] = "auto"
    group: int | None = pydantic.Field(default=64, gt=0, le=2**16)
    tolerance: float = pydantic.Field(default=0.005, ge=0)


class QuantizeOptions(TypedDict, total=False):
    """Fields of `QuantizeSpec` as keyword arguments of `Hub.quantize`."""

    scheme: Literal["auto", "int8", "int4"]
    group: int | None
    tolerance: float


class ExportSpec(JobSpec):
    """Write an adapter in the format of another system."""

    kind: Literal["export"] = "export"
    adapter: AdapterRef
    format: str
    out: str = pydantic.Field(min_length=1)
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)


class EvaluateSpec(JobSpec):
    """Measure the base and adapters on a data set."""

    kind: Literal["evaluate"] = "evaluate"
    base: BaseModelSource
    adapters: tuple[AdapterRef, ...] = ()
    dataset: Digest
    evaluator: str = "held_out_loss"
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    system: str | None = None

    @property
    def base_key(self) -> str:  # noqa: D102 - see the base class
        return self.base.key


class ReproduceSpec(JobSpec):
    """Do again what made a version, as its lineage says, and compare the bytes; no version is made."""

    kind: Literal["reproduce"] = "reproduce"
    adapter: AdapterRef


class JobState(StrEnum):
    """Where a job stands; `FINAL` states are left by none."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, *FINAL}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Requirements(Value):
    """What a job needs of the slot that runs it.

    Attributes:
        queue: that the slot's worker serves.
        device: kind of the slot.
        memory_bytes: of the device's memory.
        labels: that the worker has.
        time_limit: seconds that one attempt may take; a job that is not done then fails. None sets no limit.
        together: train it in one step with other queued jobs of its base that say so too; see decision 0074. Its
            result is then what it would be alone up to rounding, not to the bit.

    """

    queue: Label = "default"
    device: Literal["any", "cpu", "cuda"] = "any"
    memory_bytes: pydantic.NonNegativeInt = 0
    labels: tuple[Label, ...] = ()
    time_limit: float | None = pydantic.Field(default=None, gt=0)
    together: bool = False


class Job(Value):
    """A job as the registry stores it; times are the database's, in UTC.

    Attributes:
        spec: JSON of the kind's `JobSpec`; the registry knows no kinds, so that an unknown one harms no other job.
        result: JSON of a `JobResult`, for a job that succeeded.

    """

    id: str
    kind: str
    state: JobState
    spec: dict[str, Any]
    requirements: Requirements = Requirements()
    priority: int = 0
    fence: int = 0
    attempts: int = 0
    cancel_requested: bool = False
    depends_on: tuple[str, ...] = ()
    retry_of: str | None = None
    created_at: datetime
    not_before: datetime | None = None
    lease_until: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str | None = None
    reason: str | None = None
    result: dict[str, Any] | None = None


class JobResult(Value):
    """Result of a job that succeeded, the same for all kinds.

    Attributes:
        adapter: reference of the version that the job made, None for kinds that make none.
        state: of that version.
        metrics: of that version.
        report: JSON of the kind's report.

    """

    adapter: str | None = None
    state: str | None = None
    metrics: dict[str, Any] | None = None
    report: dict[str, Any]
