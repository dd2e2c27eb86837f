"""Steps of the demo: their sizes, their jobs, and what earlier runs have left of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from examples.demo import finished_jobs, plan, shell
from examples.demo.journal import Journal
from examples.demo.plan import Sizes, Speed, Tokens
from finch_hub import Hub
from finch_hub.hub.jobs import JobHandle
from finch_hub.specs.jobs import FINAL

R = TypeVar("R")
Word = str | Path | float

BASE = "smollm2-135m"
MEASURING = "speed"
"""Step and adapter of the tiny training that measures the machine."""


class Steps:
    """Frame of the demo's steps.

    Attributes:
        seconds: seconds for all steps of all runs.
        failures: checks that did not hold.
    """

    def __init__(self, hub: Hub, journal: Journal, *, seconds: float) -> None:
        self.hub, self.journal, self.seconds = hub, journal, seconds
        self.failures: list[str] = []
        self._spent_before = journal.spent
        self._found_seconds = 0.0

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Show the heading of a step. Record its duration, unless an earlier run has done so."""
        shell.heading(title)
        began, self._found_seconds = time.monotonic(), 0.0
        yield
        if self.journal.seconds(name) is None:
            self.journal.end(name, max(time.monotonic() - began, self._found_seconds))

    @property
    def speed(self) -> Speed:
        """The speed of this machine, which the first training has measured."""
        if self.journal.speed is None:
            raise AssertionError("the speed is measured before it is needed")
        return self.journal.speed

    @property
    def seconds_left(self) -> float:
        """Seconds that are left for the steps that have not ended."""
        return self.seconds - self._spent_before - (time.monotonic() - shell.BEGAN)

    def size(self, step: str, tokens: Tokens) -> Sizes:
        """Return the sizes of a step: those of an earlier run, or the largest that fit into the seconds left."""
        if (decided := self.journal.sizes(step)) is not None:
            return decided
        first_domain = self.journal.sizes(next(iter(tokens.domains)))
        sizes = plan.choose_sizes(
            tokens.steps[tokens.steps.index(step) :],
            tokens,
            self.speed,
            seconds=self.seconds_left,
            held_out=first_domain.held_out if first_domain is not None else None,
        )
        self.journal.decide(step, sizes)
        return sizes

    def learn(self, step: str, sizes: Sizes, tokens: Tokens, *, began: float) -> None:
        """Take the speed from a step that this run has done from its beginning."""
        seconds = time.monotonic() - began
        working = max(seconds - plan.estimate_start(step, self.speed), seconds / 2)
        self.journal.end(step, seconds, self.speed.after(plan.count_units(step, sizes, tokens), working))

    def find_or_train(
        self, data: Path, options: Mapping[str, Word], inputs: Mapping[str, object], validation: Path | None = None
    ) -> tuple[JobHandle, bool]:
        """Return the finished job of a training, and whether this run has submitted it; see `find_or_run`."""
        words = [word for option in options.items() for word in option]
        digests = {"train": self.digest(data), "validation": self.digest(validation) if validation else None}
        return self.find_or_run(
            "train",
            ["train", data, "--base", BASE, *words, "--validation", validation or 0],
            {"adapter": options["--adapter"], **digests, **inputs},
        )

    def find_or_run(self, kind: str, words: Sequence[Word], inputs: Mapping[str, object]) -> tuple[JobHandle, bool]:
        """Return the finished job with these inputs, and whether this run has submitted it.

        A job that an earlier run has submitted is awaited. Only if there is none, the command submits one.
        """
        found = finished_jobs.find(self.hub, kind, inputs)
        if found is not None:
            if found.refresh().state in FINAL:
                print(f"Found the result of an earlier run: job {found.id}")
            else:
                print("An earlier run has submitted this job.")
                shell.finch_hub("jobs", "watch", found.id)
            self._found_seconds += sum(
                (attempt.ended_at - attempt.started_at).total_seconds()
                for attempt in found.attempts()
                if attempt.ended_at is not None
            )
            return found, False
        shell.finch_hub(*words)
        found = finished_jobs.find(self.hub, kind, inputs)
        if found is None:
            raise AssertionError(f"the command submitted no job with the inputs {inputs}")
        return found, True

    def digest(self, data: Path) -> str:
        """Return the digest under which the hub stores a data file."""
        return self.hub.datasets.add(data).digest

    def check(self, holds: bool, what: str) -> None:
        """Print whether a check holds. Failed checks are printed again at the end."""
        print(f"{'passed' if holds else 'FAILED'}: {what}", flush=True)
        if not holds:
            self.failures.append(what)


def reference_of(job: JobHandle) -> str:
    """Return the reference of the version that a finished job has made."""
    return str((job.refresh().result or {})["adapter"])


def report_of(job: JobHandle, kind: type[R]) -> R:
    """Return the report of a finished job."""
    report = job.report()
    assert isinstance(report, kind)
    return report
