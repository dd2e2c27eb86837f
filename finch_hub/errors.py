"""Every error that Finch Hub raises on purpose, in one tree.

::

    FinchError
    ├── InvalidInput            what was asked for cannot be right; carries every problem found, not the first
    │   ├── InvalidSpec         an argument, a configuration or a settings file
    │   ├── InvalidDataset      lines of a data set
    │   ├── RefusedArtifact     an untrusted file that the gate does not let in
    │   ├── Incompatible        adapters, bases or formats that do not go together
    │   └── InvalidReference    a name or reference that is not well formed
    ├── NotFound                a thing that was named does not exist; offers the near names
    ├── Conflict                the thing exists, but its state forbids this
    │   ├── IllegalTransition   a job cannot go from this state to that one
    │   ├── StaleFence          this attempt no longer owns its job
    │   ├── CancelRequested     a cancellation came before the job's end
    │   └── AliasMoved          an alias was moved by somebody else in between
    ├── PluginError             a plugin cannot be loaded, clashes with another or failed while running
    ├── TrainingFailed          training started and could not go on
    │   ├── Diverged            the loss or a gradient is no longer finite
    │   └── InvalidCheckpoint   a checkpoint is damaged, or belongs to other work
    ├── JobFailed               a job that was waited for ended in failure
    ├── JobCancelled            a job that was waited for was cancelled
    ├── NotReproduced           a version's job was done again and gave other bytes
    └── Unavailable             a database, broker, store or worker that is needed does not answer
        ├── AccessDenied        it answers, and wants another password
        └── SchemaMismatch      the database is older or newer than this code
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong: what, where (file, line, field), and what to do about it."""

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.fix})" if self.fix else text


def near(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return up to three of the known names that resemble the given one, best first."""
    return tuple(difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5))


_SHOWN = 100  # problems in an error's text: a file may have thousands


class FinchError(Exception):
    """Base of every error that Finch Hub raises on purpose; its text is meant for the user."""


class InvalidInput(FinchError):
    """What was asked for cannot be right; `problems` holds every problem found in the one input."""

    def __init__(self, problems: Problem | Sequence[Problem], *, subject: str = "") -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.subject = subject
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if more := len(self.problems) - len(lines):
            lines.append(f"… and {more:,} more")
        if not subject:
            text = "\n".join(lines)
        elif len(lines) == 1:
            text = f"{subject}: {lines[0]}"
        else:
            text = "\n".join([f"{subject}: {len(self.problems):,} problems", *(f"  {line}" for line in lines)])
        super().__init__(text)


class InvalidSpec(InvalidInput):
    """An argument, a configuration or a settings file has values that cannot work."""


class InvalidDataset(InvalidInput):
    """Lines of a data set cannot be used; each problem names its line."""


class RefusedArtifact(InvalidInput):
    """An untrusted file was not let through the artefact gate."""


class Incompatible(InvalidInput):
    """Adapters, bases or formats do not go together."""


class InvalidReference(InvalidInput):
    """A name or reference is not well formed."""


class NotFound(FinchError):
    """A thing that was named does not exist; `near` holds names that resemble it."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.near = near(name, known)
        hint = f"; did you mean {' or '.join(repr(n) for n in self.near)}?" if self.near else ""
        super().__init__(f"there is no {kind} {name!r}{hint}")


class Conflict(FinchError):
    """The thing exists, but its state forbids what was asked."""


class IllegalTransition(Conflict):
    """A job cannot go from its state to the one asked for."""

    def __init__(self, job_id: str, old: str, new: str) -> None:
        self.job_id, self.old, self.new = job_id, old, new
        super().__init__(f"job {job_id} is {old} and cannot become {new}")


class StaleFence(Conflict):
    """This attempt no longer owns its job, so nothing it writes may count."""

    def __init__(self, job_id: str, fence: int) -> None:
        self.job_id, self.fence = job_id, fence
        super().__init__(f"attempt with fence {fence} no longer owns job {job_id}")


class CancelRequested(Conflict):
    """A cancellation was asked for before the job's end, so its result may not count."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} was asked to cancel before it ended")


class AliasMoved(Conflict):
    """An alias points elsewhere than the caller believed."""


class PluginError(FinchError):
    """A plugin cannot be loaded, clashes with another, or failed while running."""


class TrainingFailed(FinchError):
    """Training started and could not go on."""


class Diverged(TrainingFailed):
    """The loss or a gradient is no longer finite; names the step and the last good checkpoint."""


class InvalidCheckpoint(TrainingFailed):
    """A checkpoint is damaged, or belongs to other data, another specification or another base."""


class JobFailed(FinchError):
    """A job that was waited for ended in failure; `job_id` and `reason` say which and why."""

    def __init__(self, job_id: str, reason: str) -> None:
        self.job_id, self.reason = job_id, reason
        super().__init__(f"job {job_id} failed: {reason}")


class JobCancelled(FinchError):
    """A job that was waited for was cancelled."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} was cancelled")


class NotReproduced(FinchError):
    """A version's job was done again and gave other bytes; says how many tensors differ."""


class Unavailable(FinchError):
    """A database, broker, store or worker that is needed does not answer."""


class AccessDenied(Unavailable):
    """A database or broker answers, and does not let us in."""


class SchemaMismatch(Unavailable):
    """The database's schema is older or newer than this code's."""
