"""Problems of one request, collected before anything is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from finch_hub import errors


class ProblemCollector:
    """Collector of all problems in a request, so that users see them at once.

    Args:
        subject: name of the request in the combined error.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._errors: list[errors.InvalidInput | errors.NotFound | errors.Conflict] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Collect invalid input, missing things and conflicts that the block raises. Other errors pass through."""
        try:
            yield
        except (errors.InvalidInput, errors.NotFound, errors.Conflict) as error:
            self.add(error)

    def add(self, problem: errors.Problem | errors.InvalidInput | errors.NotFound | errors.Conflict) -> None:
        """Add a problem or an error that was not raised. An equal one is reported once."""
        error = errors.InvalidSpec(problem) if isinstance(problem, errors.Problem) else problem
        if not any(type(known) is type(error) and str(known) == str(error) for known in self._errors):
            self._errors.append(error)

    def raise_problems(self) -> None:
        """Raise the collected problems. A single error stays as it is, several become one of their common kind.

        Raises:
            InvalidInput: there are problems; holds all of them.
            NotFound: one thing is missing, and nothing else is wrong.
            Conflict: the state of one thing forbids the request, and nothing else is wrong.
        """
        if not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        kinds = {type(error) for error in self._errors}
        kind = kinds.pop() if len(kinds) == 1 else errors.InvalidSpec
        if not issubclass(kind, errors.InvalidInput):
            kind = errors.InvalidSpec
        raise kind([problem for error in self._errors for problem in _problems_of(error)], subject=self._subject)


def _problems_of(error: errors.InvalidInput | errors.NotFound | errors.Conflict) -> Iterator[errors.Problem]:
    if not isinstance(error, errors.InvalidInput):
        yield errors.Problem(what=str(error))
        return
    for problem in error.problems:
        where = ", ".join(part for part in (error.subject, problem.where) if part)
        yield errors.Problem(what=problem.what, where=where, fix=problem.fix)
