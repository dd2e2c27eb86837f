"""Errors that Finch Hub raises on purpose.

::

    FinchError
    ├── InvalidInput            a request has invalid values; contains all problems
    │   ├── InvalidSpec         an argument, a configuration or a settings file is invalid
    │   ├── InvalidDataset      lines of a data set are invalid
    │   ├── RefusedArtifact     the gate refused an untrusted file
    │   ├── Incompatible        adapters, bases or formats do not fit together
    │   └── InvalidReference    a name or reference is not well formed
    ├── NotFound                a named thing does not exist; contains similar names
    │   ├── Deleted             an adapter or a version was deleted or purged
    │   ├── MissingRepository   the Hugging Face Hub has no such repository, or does not show it
    │   └── MissingArtifact     a store that is well lacks an artifact
    │       └── MissingOutput   the output of a job was fetched already, or its week is over
    ├── Conflict                the state of a thing forbids the request
    │   ├── IllegalTransition   a job cannot change from its state to another
    │   ├── StaleFence          an attempt no longer owns its job
    │   ├── CancelRequested     a cancellation was requested before the job ended
    │   └── AliasMoved          an alias does not point where the caller expected
    ├── PluginError             a plugin cannot be loaded, conflicts with another, or failed
    ├── TimeLimitReached        code of a base or a plugin worked on one row without end
    ├── TrainingFailed          a training that had started failed
    │   ├── Diverged            the loss or a gradient is not finite
    │   │   └── UnusableAdapter the same, with one adapter
    │   └── InvalidCheckpoint   a checkpoint is damaged, or belongs to another training
    ├── JobFailed               the awaited job failed
    ├── JobCancelled            the awaited job was cancelled
    ├── IncompleteBackup        a backup was finished without artifacts that are missing or damaged
    ├── Damaged                 an inspection found damage
    ├── NotReproduced           a version's job ran again and gave different bytes
    └── Unavailable             a database, broker, store or worker does not answer
        ├── AccessDenied        a database, a broker or the Hugging Face Hub rejected the login
        ├── ReplacedDatabase    the file of a SQLite database was replaced or removed while it was open
        ├── SchemaMismatch      the database is older or newer than this code
        └── StoreUnavailable    an artifact store does not answer, or is not the deployment's
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finch_hub.texts.visible_text import to_block, to_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem in an input: what is wrong, where (file, line or field), and how to fix it."""

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return to_line(f"{text} ({self.fix})" if self.fix else text)


def shorten(text: str) -> str:
    """Return a text that a user gave, without the middle of one that is longer than a name or path."""
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]}…{text[-_MAX_TEXT // 2 :]}"


def near(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return up to three other known names that begin with a name or resemble it, best first."""
    import difflib  # here, as the patterns of secrets below, since `--help` needs neither

    names = sorted(set(known) - {name})  # an adapter without versions is known and not found
    longer = sorted((other for other in names if len(name) >= _MIN_PREFIX and other.startswith(name)), key=len)
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return tuple(dict.fromkeys([*longer, *similar]))[:3]


_MIN_PREFIX = 3  # letters of a name that stand for it
_MAX_SHOWN = 20  # problems in the text of an error; a file may have thousands
_MAX_KEPT = 10_000  # problems of an error; a hostile header has half a million
_MAX_KINDS = 10
_MIN_GROUP = 4  # problems of one text that become one
_MAX_TEXT = 300  # characters of a name or path


def count_kinds(problems: Iterable[Problem]) -> collections.Counter[str]:
    """Count problems that differ only in their numbers and in what follows a colon."""
    return collections.Counter(
        re.sub(r"(?<![\w.-])[0-9][0-9,.]*", "N", problem.what.partition(":")[0]) for problem in problems
    )


def group_problems(problems: Iterable[Problem]) -> list[tuple[Problem, int]]:
    """Return problems with their numbers, in which many of one text are one that names the first places."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.what, problem.fix), []).append(problem)
    found: list[tuple[Problem, int]] = []
    for group in groups.values():
        if len(group) < _MIN_GROUP or not all(problem.where for problem in group):
            found += [(problem, 1) for problem in group]
            continue
        more = f" and {len(group) - _MAX_SHOWN:,} more" if len(group) > _MAX_SHOWN else ""
        where = _list_places([problem.where for problem in group[:_MAX_SHOWN]]) + more
        found.append((Problem(what=group[0].what, where=where, fix=group[0].fix), len(group)))
    return found


def _list_places(places: Sequence[str]) -> str:
    """Return places as one text: "lines 2, 5, 7" if they differ in their numbers only."""
    kinds, _, numbers = zip(*(place.rpartition(" ") for place in places), strict=True)
    if len(set(kinds)) == 1 and kinds[0] and all(number.isdecimal() for number in numbers):
        return f"{kinds[0]}s {', '.join(numbers)}"
    return ", ".join(places)


def list_problems(problems: Sequence[Problem], kinds: Mapping[str, int] | None = None) -> list[str]:
    """Return a line for each of the first problems, and one that counts all by kind if there are more.

    Many problems of one text have one line, which names the first places.

    Args:
        kinds: number of all problems of each kind; None counts `problems`.
    """
    grouped = group_problems(problems)
    lines = [str(problem) for problem, _ in grouped[:_MAX_SHOWN]]
    counted = collections.Counter(kinds) if kinds is not None else None
    shown = sum(count for _, count in grouped[:_MAX_SHOWN])
    if more := (counted.total() if counted is not None else len(problems)) - shown:
        counted = counted if counted is not None else count_kinds(problems)
        counts = [f"{count:,} × {kind}" for kind, count in counted.most_common(_MAX_KINDS)]
        counts += ["…"] if len(counted) > _MAX_KINDS else []
        lines.append(f"… and {more:,} more; all by kind: {'; '.join(counts)}")
    return lines


class FinchError(Exception):
    """Base of all errors that Finch Hub raises on purpose. The text is for the user, visible, and has no secrets."""

    def __str__(self) -> str:
        from finch_hub.texts.secret_shapes import redact

        return to_block(redact(super().__str__()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def to_json(self) -> dict[str, Any]:
        """Return the error as JSON values, from which `restore` makes it in another process."""
        fields = {name: value for name, value in self.__dict__.items() if name != "problems"}
        problems = [dataclasses.asdict(problem) for problem in self.__dict__.get("problems", ())]
        return {"kind": type(self).__name__, "args": self.args, "fields": fields, "problems": problems}


def restore(data: Mapping[str, Any]) -> FinchError:
    """Return the error of `FinchError.to_json`, from a process that need not be trusted.

    Raises:
        LookupError, TypeError, ValueError: it is none.
    """
    kinds: list[type[FinchError]] = [FinchError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.__name__ == data["kind"]), FinchError)
    error = kind.__new__(kind, *map(str, data["args"]))
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in data["fields"].items()}
    error.__dict__.update(fields)
    if issubclass(kind, InvalidInput):
        texts = ({name: str(text) for name, text in problem.items()} for problem in data["problems"])
        error.__dict__["problems"] = tuple(Problem(**text) for text in texts)
    return error


class FinchWarning(UserWarning):
    """Base of all warnings of Finch Hub. The text is for the user, and visible."""

    def __str__(self) -> str:
        return to_block(super().__str__())


class InvalidInput(FinchError):
    """A request has invalid values; `problems` contains the first ten thousand that were found.

    A single problem can be given as its text, with `where` and `fix`. `kinds` counts all problems if `problems` has
    the first ones only.
    """

    def __init__(
        self,
        problems: str | Problem | Iterable[Problem],
        *,
        where: str = "",
        fix: str = "",
        subject: str = "",
        kinds: Mapping[str, int] | None = None,
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(what=problems, where=where, fix=fix)
        given = iter((problems,) if isinstance(problems, Problem) else problems)
        self.problems = tuple(itertools.islice(given, _MAX_KEPT))
        if (more := sum(1 for _ in given)) and kinds is None:
            kinds = count_kinds(self.problems) + collections.Counter({"of these and perhaps other kinds": more})
        self.subject = subject
        lines = list_problems(self.problems, kinds)
        total = sum(kinds.values()) if kinds is not None else len(self.problems)
        subject = to_line(subject)
        if not subject:
            text = "\n".join(lines)
        elif len(lines) == 1:
            text = f"{subject}: {lines[0]}"
        else:
            text = "\n".join([f"{subject}: {total:,} problems", *(f"  {line}" for line in lines)])
        super().__init__(text)


class InvalidSpec(InvalidInput):
    """An argument, a configuration or a settings file has invalid values."""


class InvalidDataset(InvalidInput):
    """Lines of a data set are invalid; each problem names its line."""


class RefusedArtifact(InvalidInput):
    """The artifact gate refused an untrusted file."""


class Incompatible(InvalidInput):
    """Adapters, bases or formats do not fit together."""


class InvalidReference(InvalidInput):
    """A name or reference is not well formed."""


class NotFound(FinchError):
    """A named thing does not exist; `near` contains similar names.

    With `lists_known`, the text lists all known names if none is similar. There should be few of them. Without similar
    names, it also has `fix`.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str] = (), *, lists_known: bool = False, fix: str = ""
    ) -> None:
        self.kind = kind
        self.name = name
        known = sorted(set(known))
        self.near = near(name, known)
        hints = [f"known: {', '.join(known)}"] if lists_known and known else []
        hints += [fix] if fix else []
        if self.near:
            hints = [f"did you mean {' or '.join(map(repr, self.near))}?"]
        hint = f" ({'; '.join(hints)})" if hints else ""
        super().__init__(f"there is no {kind} {shorten(name)!r}{hint}")


class MissingRepository(NotFound):
    """The Hugging Face Hub has no such repository, or does not show it to this login.

    With `is_source`, the name may have been meant as a folder.
    """

    def __init__(self, name: str, *, has_token: bool, is_source: bool = False) -> None:
        self.kind, self.name, self.near, self.has_token = "repository", name, (), has_token
        what, fix = f"there is no public repository {shorten(name)!r}", "check the name; a private one needs HF_TOKEN"
        if has_token:
            what = f"there is no repository {shorten(name)!r} that your token can read"
            fix = "check the name, and what the token may read"
        what += ", and no such folder or file here" if is_source else ""
        super(NotFound, self).__init__(f"{what} ({fix})")


BASE_FORMS = "give a folder that exists, a .gguf file, or a repository id such as HuggingFaceTB/SmolLM2-135M"


NO_FILES = "came with a bundle without its files"
TAKE_FILES = "unbundle a bundle that has them"


class Deleted(NotFound):
    """An adapter or a version was deleted, and can be restored, was purged, or came with a bundle without its files."""

    def __init__(self, kind: str, name: str, *, is_purged: bool = False, never_had_files: bool = False) -> None:
        self.kind, self.name, self.near = kind, name, ()
        what = "was purged: nothing is left of it but its number and its place in lineages (name another one)"
        if never_had_files and not is_purged:
            what = f"{NO_FILES} ({TAKE_FILES})"
        elif not is_purged:
            what = f"was deleted (run `finch-hub adapters restore {name}` to use it again)"
        super(NotFound, self).__init__(f"{kind} {name} {what}")


class MissingArtifact(NotFound):
    """A store that answers and is the deployment's lacks an artifact."""


class MissingOutput(MissingArtifact):
    """The output of a job is no longer in the store."""

    def __init__(self, job_id: str, *, is_over: bool) -> None:
        self.kind, self.name, self.near = "output of job", job_id, ()
        why = "it is removed a week after the job ended" if is_over else "it was fetched already, which removes it"
        fix = "submit the job again to make another"
        super(NotFound, self).__init__(f"the output of job {job_id} is no longer in the store: {why} ({fix})")


class Conflict(FinchError):
    """The state of a thing forbids the request."""


class IllegalTransition(Conflict):
    """A job cannot change from its state to the requested state."""

    def __init__(self, job_id: str, old: str, new: str) -> None:
        self.job_id, self.old, self.new = job_id, old, new
        change = {"queued": "retried"}.get(new, new)
        state = f"has {old} already" if old in ("succeeded", "failed") else f"is {old}"
        super().__init__(f"job {job_id} cannot be {change}: it {state}")


class StaleFence(Conflict):
    """An attempt no longer owns its job, so that its writes are refused."""

    def __init__(self, job_id: str, fence: int) -> None:
        self.job_id, self.fence = job_id, fence
        super().__init__(f"attempt {fence} no longer owns job {job_id}")


class CancelRequested(Conflict):
    """A cancellation was requested before the job ended, so that its result is refused."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} cannot succeed: its cancellation was requested")


class AliasMoved(Conflict):
    """An alias does not point where the caller expected."""


class PluginError(FinchError):
    """A plugin cannot be loaded, conflicts with another, or failed."""


class TimeLimitReached(FinchError):
    """A chat template, a tokenizer or a plugin worked on one row without end; the text names both."""


class TrainingFailed(FinchError):
    """A training that had started failed."""


class Diverged(TrainingFailed):
    """The loss or a gradient is not finite. The text names the step and the last usable checkpoint."""


class UnusableAdapter(Diverged):
    """The base with an adapter computes values that are not finite. A job that meets this quarantines the version."""

    def __init__(self, adapter: str, what: str) -> None:
        self.adapter = adapter
        super().__init__(f"{adapter} cannot be used with its base: {what} (leave it out, or train it again)")


class InvalidCheckpoint(TrainingFailed):
    """A checkpoint is damaged, or belongs to other data, another specification or base."""


class JobFailed(FinchError):
    """The awaited job failed."""

    def __init__(self, job_id: str, reason: str) -> None:
        self.job_id, self.reason = job_id, reason
        super().__init__(f"job {job_id} failed: {reason}")


class JobCancelled(FinchError):
    """The awaited job was cancelled."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} was cancelled")


class IncompleteBackup(FinchError):
    """A backup was finished without artifacts that the store lacks or has damaged. The report lists them."""


class Damaged(FinchError):
    """An inspection found damage. The text names each place, and what mends it."""


class NotReproduced(FinchError):
    """A version's job ran again and gave different bytes. The text counts the tensors that differ."""


class Unavailable(FinchError):
    """A database, broker, store or worker does not answer."""


class AccessDenied(Unavailable):
    """A database, a broker or the Hugging Face Hub rejected the login."""


class ReplacedDatabase(Unavailable):
    """The file of a SQLite database was replaced or removed while it was open."""


class SchemaMismatch(Unavailable):
    """The schema of the database is older or newer than this code."""


class StoreUnavailable(Unavailable):
    """An artifact store does not answer, refuses, is full or not mounted, or belongs to another deployment."""
