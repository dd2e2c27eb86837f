"""A kind of job: its values, and its steps on both sides of the process border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from finch_hub import errors
from finch_hub.specs.jobs import Job, JobResult, JobSpec
from finch_hub.specs.value import JsonObject, Value
from finch_hub.workers.runs.channel import Channel

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores

SpecT = TypeVar("SpecT", bound=JobSpec)
OrderT = TypeVar("OrderT", bound=Value)
ReportT = TypeVar("ReportT", bound=Value)

_STORED = {"stored": True}  # the context of stored values: their authors have seen the warnings

Record = Callable[["Session"], JobResult]
"""Registers what a job made, in the transaction that ends the job."""


class Outcome(Value, Generic[ReportT]):
    """What the child made. The report is the evidence that users read."""

    report: ReportT

    @property
    def needs_storing(self) -> bool:
        """Whether the kind's `finish` has something to store."""
        return True

    def record(self, session: Session) -> JobResult:
        """Return the result of a job that registers nothing more."""
        return JobResult(report=self.report.model_dump(mode="json"))


class AdapterOutcome(Outcome[ReportT]):
    """Outcome of kinds that make adapter versions.

    Attributes:
        adapter: folder that the child wrote, in PEFT's format.
        environment: what its bytes depend on beside the specification, as JSON.
    """

    adapter: Path
    environment: JsonObject

    def result_of(self, version: AdapterVersion) -> JobResult:
        """Return the result of the job that made a version."""
        report = self.report.model_dump(mode="json")
        return JobResult(adapter=version.reference, state=version.state, metrics=version.metrics, report=report)


OutcomeT = TypeVar("OutcomeT", bound=Outcome[Any])


@dataclass(frozen=True, kw_only=True)
class JobKind(Generic[SpecT, OrderT, OutcomeT]):
    """A kind of job. Its module imports what is heavy inside the steps, since both processes import the module.

    Attributes:
        spec: what users ask for.
        order: what the child needs to work, without database or network.
        outcome: what the child made, with the `report`.
        about: returns one line about a job, for lists.
        prepare: in the supervisor, makes the order. It fetches artifacts to local paths and finds the plugins' targets.
            Its errors end the job before a process starts. The attempt's folder may not exist yet.
        execute: in the child, does the work.
        finish: in the supervisor, stores what the child wrote and returns how to register it. It may wait for stores
            and be repeated. None if the report is the result.
        repeat: returns the specification that repeats the job of a version, with the choices that its worker made. None
            for kinds that make no versions.
        pin: returns the order of that job, with the choices that its child made.
    """

    spec: type[SpecT]
    order: type[OrderT]
    outcome: type[OutcomeT]
    report: type[Value]
    about: Callable[[SpecT], str]
    prepare: Callable[[SpecT, Job, Stores, Path], OrderT]
    execute: Callable[[OrderT, Channel], OutcomeT]
    finish: Callable[[SpecT, Job, OutcomeT, Stores], Record] | None = None
    repeat: Callable[[AdapterVersion], SpecT] | None = None
    pin: Callable[[OrderT, AdapterVersion], OrderT] = lambda order, version: order

    @property
    def name(self) -> str:
        """Name, as in :data:`finch_hub.workers.runs.kinds.MODULES`."""
        return str(self.spec.model_fields["kind"].default)

    def spec_of(self, stored: Mapping[str, Any]) -> SpecT:
        """Return the value of a stored specification, without fields that only another version of Finch Hub knows.

        Raises:
            InvalidSpec: this version does not accept the values of some fields.
        """
        subject = f"stored {self.name} job"
        try:
            return self.spec.of_stored(stored, subject=subject, context=_STORED)
        except errors.InvalidReference as error:  # another program wrote it
            raise errors.InvalidSpec(error.problems, subject=subject) from None

    def list_unknown(self, stored: Mapping[str, Any]) -> list[str]:
        """Return the fields of a stored specification that only another version of Finch Hub knows."""
        return self.spec.list_unknown(stored, context=_STORED)
