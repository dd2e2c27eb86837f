"""All that is wrong with one request, gathered before anything is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from finch_hub import errors


class Findings:
    """Gathers what the checks of one request raise, so that its author mends everything in one go.

    Args:
        subject: what is checked, as the combined error calls it.

    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._errors: list[errors.InvalidInput | errors.NotFound] = []

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """Keep what the block raises of invalid input and missing things; other errors pass."""
        try:
            yield
        except (errors.InvalidInput, errors.NotFound) as error:
            self._errors.append(error)

    def add(self, problem: errors.Problem) -> None:
        """Keep a problem that no exception reported."""
        self._errors.append(errors.InvalidSpec(problem))

    def settle(self) -> None:
        """Raise what was gathered: a single error as it is, several as one of their common kind.

        Raises:
            InvalidInput: with every problem of every error.
            NotFound: where that is all that is wrong.

        """
        if not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        kinds = {type(error) for error in self._errors}
        kind = kinds.pop() if len(kinds) == 1 else errors.InvalidSpec
        if not issubclass(kind, errors.InvalidInput):
            kind = errors.InvalidSpec
        raise kind([problem for error in self._errors for problem in _problems(error)], subject=self._subject)


def _problems(error: errors.InvalidInput | errors.NotFound) -> Iterator[errors.Problem]:
    if isinstance(error, errors.NotFound):
        yield errors.Problem(what=str(error))
        return
    for problem in error.problems:
        where = ", ".join(part for part in (error.subject, problem.where) if part)
        yield errors.Problem(what=problem.what, where=where, fix=problem.fix)
