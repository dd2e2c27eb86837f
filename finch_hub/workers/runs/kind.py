"""A kind of job: its values, and its steps on both sides of the process border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from finch_hub.specs.jobs import Job, JobResult, JobSpec
from finch_hub.specs.value import Value
from finch_hub.workers.runs.channel import Channel

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores

SpecT = TypeVar("SpecT", bound=JobSpec)
OrderT = TypeVar("OrderT", bound=Value)
OutcomeT = TypeVar("OutcomeT", bound=Value)

Record = Callable[["Session"], JobResult]
"""Registers what a job made, in the transaction that ends the job."""


class AdapterOutcome(Value):
    """Outcome of kinds that make adapter versions.

    Attributes:
        adapter: folder that the child wrote, in PEFT's format.
        environment: what its bytes depend on beside the specification, as JSON.
    """

    adapter: Path
    environment: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[SpecT, OrderT]):
    """How to repeat the job that made a version.

    Attributes:
        spec: returns the version's specification, with the choices that its worker made.
        pin: returns the order, with the choices that its child made; by default the order itself.
    """

    spec: Callable[[AdapterVersion], SpecT]
    pin: Callable[[OrderT, AdapterVersion], OrderT] = lambda order, version: order


@dataclass(frozen=True, kw_only=True)
class JobKind(Generic[SpecT, OrderT, OutcomeT]):
    """A kind of job. Its module imports what is heavy inside the steps, since both processes import the module.

    Attributes:
        name: as in :data:`finch_hub.workers.runs.kinds.MODULES`.
        spec: what users ask for.
        order: what the child needs to work, without database or network.
        outcome: what the child made.
        report: the evidence that users read.
        about: returns one line about a job, for lists.
        prepare: in the supervisor, makes the order. It fetches artifacts to local paths and finds the plugins' targets.
            Its errors end the job before a process starts. The attempt's folder may not exist yet.
        execute: in the child, does the work.
        finish: in the supervisor, stores what the child wrote and returns how to register it. May be repeated.
        is_finish_slow: whether `finish` waits for stores, so that it needs a thread of its own.
        recipe: for kinds that make adapter versions.
    """

    name: str
    spec: type[SpecT]
    order: type[OrderT]
    outcome: type[OutcomeT]
    report: type[Value]
    about: Callable[[SpecT], str]
    prepare: Callable[[SpecT, Job, Stores, Path], OrderT]
    execute: Callable[[OrderT, Channel], OutcomeT]
    finish: Callable[[SpecT, Job, OutcomeT, Stores], Record]
    is_finish_slow: bool = False
    recipe: Recipe[SpecT, OrderT] | None = None

    def spec_of(self, stored: Mapping[str, Any]) -> SpecT:
        """Return the value of a stored specification.

        Raises:
            InvalidSpec: the kind has other fields in this version.
        """
        return self.spec.of(stored, subject=f"stored {self.name} job", context={"stored": True})
