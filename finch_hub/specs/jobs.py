"""Jobs: their specifications, states and requirements."""

from __future__ import annotations

import abc
import contextlib
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypedDict

import pydantic

from finch_hub import errors
from finch_hub.specs.bases import MAX_NAME, BareAddress, Revision
from finch_hub.specs.lora import LoRAConfig, LoRAOptions
from finch_hub.specs.outputs import OutputPlace, StoredOutput
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.references import AdapterReference, check_adapter_name
from finch_hub.specs.reports import ReadingReport
from finch_hub.specs.training import TrainingConfig, TrainingOptions
from finch_hub.specs.value import Digest, JsonObject, NonNegativeInt, Parameters, PositiveInt, Value

AdapterName = Annotated[str, pydantic.AfterValidator(lambda name: check_adapter_name(name))]
Label = Annotated[str, pydantic.AfterValidator(lambda text: check_label(text))]
AdapterRef = Annotated[str, pydantic.AfterValidator(lambda text: str(AdapterReference.parse(text)))]


def check_label(text: str) -> str:
    """Return a valid name of a queue, a worker or a label.

    Raises:
        ValueError: the name is not valid.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}", text):
        raise ValueError(f"{text!r} is not a valid name; use up to 96 letters, digits and . _ : -")
    return text


class BaseModelSource(Value):
    """Source of a base model: a Hugging Face id with revision, a local folder, a GGUF file, or a plugin's address."""

    source: BareAddress = pydantic.Field(min_length=1, max_length=MAX_NAME)
    revision: Revision | None = None

    @property
    def key(self) -> str:
        """Name under which workers keep the base loaded. The fingerprint is unknown before it is loaded."""
        return f"{self.source}@{self.revision or ''}"[:MAX_NAME]


_MAX_WEIGHT = 1e6  # also of scales; products of squares must not overflow


class Parent(Value):
    """An input adapter of a composition or merge, with its weight."""

    adapter: AdapterRef
    weight: float = pydantic.Field(default=1.0, ge=-_MAX_WEIGHT, le=_MAX_WEIGHT)


class JobSpec(Value):
    """Specification of a job. Each kind has its own class."""

    kind: str

    @property
    def base_key(self) -> str | None:
        """Key of the field `base`, which the job loads; None if its adapters determine the base."""
        base: BaseModelSource | None = getattr(self, "base", None)
        return base.key if base is not None else None

    @property
    def datasets(self) -> tuple[str, ...]:
        """Digests of the stored data sets that the job reads."""
        named = (getattr(self, field, None) for field in ("train", "validation", "dataset"))
        return tuple(digest for digest in named if digest is not None)

    @property
    def group_key(self) -> str | None:
        """Key that jobs share if they can be trained in one step; None for kinds that never are."""
        return None


class TrainSpec(JobSpec):
    """Train an adapter on a data set.

    Attributes:
        train: digest of the stored examples.
        validation: digest of stored held-out examples; None holds out a share of `train`.
        start: version with whose weights the training starts, and whose shape `lora` has; None for a new adapter.
        thinking: whether answers have reasoning, so that prompts to the adapter ask for it.
        reading: how the rows of the data were read; None for examples that were stored before.
    """

    kind: Literal["train"] = "train"
    adapter: AdapterName
    base: BaseModelSource
    train: Digest
    validation: Digest | None = None
    start: AdapterRef | None = None
    preset: str | None = None
    system: str | None = None
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()
    thinking: bool = False
    reading: ReadingReport | None = None

    @property
    def group_key(self) -> str | None:  # noqa: D102 - see the base class
        if self.start is not None:
            return None
        return f"{self.base.key} {self.training.dtype} {self.training.threads}"


class TrainOptions(LoRAOptions, TrainingOptions, ReadingOptions, total=False):
    """Options of `Hub.train`: settings that win over the preset's, and how rows are read."""


class ComposeSpec(JobSpec):
    """Compose several adapters of one base into one.

    Attributes:
        parents: adapters. A single one is copied, or scaled and reduced in rank.
        strategy: name of a strategy plugin, or "auto", which measures several and keeps the best.
        parameters: parameters of the strategy, checked against its schema.
        resolver: name of a conflict-resolver plugin, which runs before the strategy.
        scale: factor of modules that several parents change, or of a single adapter; None searches it on the parents'
            validation sets, if there are any.
        rank: rank of the result; None keeps the strategy's rank, "auto" reduces it by energy.
        evaluations: maximum number of held-out evaluations of the search; one of them measures plain linear.
        min_retention: least retention of each parent, below which the version is registered as `below_retention`.
        seed: seed of random strategies, combined with the parents' hashes.
        system: system prompt of prompts to the result: that of the parents, if all have the same.
        thinking: whether prompts to the result ask for reasoning, as those to all parents do.
    """

    kind: Literal["compose"] = "compose"
    adapter: AdapterName
    parents: tuple[Parent, ...] = pydantic.Field(min_length=1)
    strategy: str = "auto"
    parameters: Parameters = pydantic.Field(default_factory=dict)
    resolver: str = "keep"
    resolver_parameters: Parameters = pydantic.Field(default_factory=dict)
    scale: float | None = pydantic.Field(default=None, gt=0, le=_MAX_WEIGHT)
    rank: PositiveInt | Literal["auto"] | None = None
    evaluations: PositiveInt = 16
    min_retention: float | None = pydantic.Field(default=None, le=1)
    seed: NonNegativeInt = 0
    system: str | None = None
    thinking: bool = False


class ComposeOptions(TypedDict, total=False):
    """Fields of `ComposeSpec` that `Hub.compose` accepts as further keyword arguments."""

    strategy: str
    parameters: JsonObject
    resolver: str
    resolver_parameters: JsonObject
    scale: float | None
    rank: int | Literal["auto"] | None
    evaluations: int
    min_retention: float | None
    seed: int
    system: str | None
    thinking: bool


class OutputSpec(JobSpec):
    """Specification of a job that writes a folder for its submitter.

    Attributes:
        out: absolute path of the folder, on the machine of the submitter.
        place: which machine that is; None means that of the worker.
    """

    out: str = pydantic.Field(min_length=1)
    place: OutputPlace | None = None

    @property
    @abc.abstractmethod
    def replaces(self) -> bool:
        """Whether an earlier output of the same kind is replaced."""


class MergeSpec(OutputSpec):
    """Write the base with adapters merged into its weights. `replace` replaces an earlier merge."""

    kind: Literal["merge"] = "merge"
    parents: tuple[Parent, ...] = pydantic.Field(min_length=1)
    replace: bool = False

    @property
    def replaces(self) -> bool:
        """Whether an earlier merge is replaced."""
        return self.replace


class QuantizeSpec(JobSpec):
    """Store an adapter with fewer bits, as its next version."""

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


class ExportSpec(OutputSpec):
    """Export an adapter in the format of another system."""

    kind: Literal["export"] = "export"
    adapter: AdapterRef
    format: str
    parameters: Parameters = pydantic.Field(default_factory=dict)

    @property
    def replaces(self) -> bool:
        """Whether an earlier export of the same format is replaced."""
        return bool(self.parameters.get("replace"))


class EvaluateSpec(JobSpec):
    """Measure the base and adapters on a data set."""

    kind: Literal["evaluate"] = "evaluate"
    base: BaseModelSource
    adapters: tuple[AdapterRef, ...] = ()
    dataset: Digest
    evaluator: str = "held_out_loss"
    parameters: Parameters = pydantic.Field(default_factory=dict)
    system: str | None = None


class ReproduceSpec(JobSpec):
    """Repeat the job that made a version, and compare the bytes. No version is made."""

    kind: Literal["reproduce"] = "reproduce"
    adapter: AdapterRef


_MAKERS = ("train", "compose")  # kinds whose field `adapter` is the name of the version that they make


def list_adapters(spec: JsonObject) -> list[AdapterReference]:
    """Return the references of the adapters that a job reads, from the JSON of its specification.

    What cannot be read is left out: another version of Finch Hub may have written it.
    """
    parents, named = _list(spec, "parents"), _list(spec, "adapters")
    named += [parent.get("adapter") for parent in parents if isinstance(parent, dict)]
    if spec.get("kind") not in _MAKERS:
        named.append(spec.get("adapter"))
    named += [spec["start"]] if spec.get("start") is not None else []
    references = []
    for text in named:
        with contextlib.suppress(errors.InvalidReference):
            references.append(AdapterReference.parse(str(text)))
    return references


def find_target(spec: JsonObject) -> str | None:
    """Return the name of the adapter of which a job makes a version, from the JSON of its specification.

    None if it makes none, or a version of an adapter that it reads.
    """
    return str(spec.get("adapter")) if spec.get("kind") in _MAKERS else None


def _list(spec: JsonObject, field: str) -> list[Any]:
    value = spec.get(field)
    return list(value) if isinstance(value, list) else []


class JobState(StrEnum):
    """State of a job. No job leaves a `FINAL` state."""

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
    **dict.fromkeys(FINAL, frozenset()),
}


class Requirements(Value):
    """Requirements of a job for the slot that runs it.

    Attributes:
        is_memory_estimated: whether a training was submitted with an estimate of the memory, not with a given number.
            One that repeats it estimates anew.
        labels: labels that the slot's worker must have.
        time_limit: seconds after which an attempt fails; None sets no limit.
        together: allow training in one step with other queued jobs of the base (decision 0074). The result then equals
            that of the job alone up to rounding, not to the bit.
    """

    queue: Label = "default"
    device: Literal["any", "cpu", "cuda"] = "any"
    memory_bytes: NonNegativeInt = 0
    is_memory_estimated: bool = False
    labels: tuple[Label, ...] = ()
    time_limit: float | None = pydantic.Field(default=None, gt=0)
    together: bool = False

    def evolve(self, **changes: Any) -> Self:
        """Return a validated copy with changes. Memory that is changed is not estimated, unless that is given, too.

        Raises:
            InvalidSpec: some fields are invalid; contains a problem for each.
        """
        given = {"is_memory_estimated": False} if "memory_bytes" in changes else {}
        return super().evolve(**given | changes)


class Job(Value):
    """A job in the registry. Times are the database's, in UTC.

    Attributes:
        spec: JSON of the kind's `JobSpec`. The registry reads none of it, so that unknown kinds do no harm.
        owner: name with which the job takes turns with the jobs of others; empty for jobs of earlier versions.
        result: JSON of a `JobResult`, if the job succeeded.
        claim_token: random text of the claim that runs the job, which the claim's owner alone knows.
        set_aside: versions of Finch Hub whose workers cannot read the job, so that they leave it in the queue.
        unreadable: why this version cannot read the job; None if it can. The invalid fields have their defaults then.
    """

    id: str
    kind: str
    state: JobState
    spec: JsonObject
    requirements: Requirements = Requirements()
    priority: int = 0
    owner: str = ""
    fence: int = pydantic.Field(default=0, lt=2**31 - 1)
    attempts: int = pydantic.Field(default=0, lt=2**31 - 1)
    cancel_requested: bool = False
    depends_on: tuple[str, ...] = ()
    retry_of: str | None = None
    created_at: datetime
    not_before: datetime | None = None
    lease_until: datetime | None = None
    claim_token: str | None = pydantic.Field(default=None, exclude=True, repr=False)
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str | None = None
    reason: str | None = None
    result: JsonObject | None = None
    set_aside: tuple[str, ...] = ()
    unreadable: str | None = None


class JobResult(Value):
    """Result of a job that succeeded.

    Attributes:
        adapter: reference of the version that the job made, with its state and metrics; None if it made none.
        report: JSON of the kind's report.
        output: where its output waits for the submitter; None if it made none, or wrote it where it belongs.
    """

    adapter: str | None = None
    state: str | None = None
    metrics: JsonObject | None = None
    report: JsonObject
    output: StoredOutput | None = None
