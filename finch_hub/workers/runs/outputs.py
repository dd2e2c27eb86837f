"""Outputs of runs: where the child writes them, and how they reach the submitter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic

from finch_hub.specs.jobs import Job, OutputSpec
from finch_hub.workers.runs.job_kind import Outcome, Record, ReportT

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores

# What takes long to import is imported late: every child imports this module.


class OutputOutcome(Outcome[ReportT], Generic[ReportT]):
    """Outcome of kinds that write a folder for their submitter.

    Attributes:
        made: what is to be brought to the store; None if the child wrote the output where it belongs.
    """

    made: Path | None = None

    @property
    def needs_storing(self) -> bool:
        """Whether the submitter has to fetch the output from the store."""
        return self.made is not None


def choose_folder(spec: OutputSpec, workdir: Path) -> Path | None:
    """Return where the child writes an output that the submitter wants on another machine, None if it is this one."""
    from finch_hub.storage import outputs

    return None if outputs.is_here(spec) else workdir / "output" / Path(spec.out).name


def finish(spec: OutputSpec, job: Job, outcome: OutputOutcome[ReportT], stores: Stores) -> Record:
    """Store an output that the submitter has to fetch."""
    from finch_hub.storage import outputs

    if outcome.made is None:
        return outcome.record
    stored = outputs.store_output(outcome.made, job, stores.artifacts)
    return lambda session: outcome.record(session).evolve(output=stored)
