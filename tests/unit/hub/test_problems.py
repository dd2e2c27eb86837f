"""The collector of a request's problems."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.hub.problems import ProblemCollector


def test_no_problem_raises_nothing() -> None:
    collector = ProblemCollector("this request")
    with collector.collect():
        pass
    collector.raise_problems()


def test_single_error_is_raised_unchanged() -> None:
    collector = ProblemCollector("this request")
    error = errors.NotFound("adapter", "medicla", ["medical"])
    with collector.collect():
        raise error
    with pytest.raises(errors.NotFound) as raised:
        collector.raise_problems()
    assert raised.value is error


def test_conflict_beside_other_problems_becomes_one_of_them() -> None:
    collector = ProblemCollector("this request")
    with collector.collect():
        raise errors.Conflict("the path out exists already")
    with pytest.raises(errors.Conflict, match=r"^the path out exists already$"):
        collector.raise_problems()
    collector.add(errors.Problem(where="rank", what="is too large"))
    with pytest.raises(errors.InvalidSpec, match=r"the path out exists already\n  rank: is too large"):
        collector.raise_problems()


def test_errors_of_one_kind_become_one_error_of_that_kind() -> None:
    collector = ProblemCollector("this request")
    for name in ("medical", "legal"):
        collector.add(errors.Incompatible(errors.Problem(where=name, what="has DoRA magnitudes"), subject="adapters"))
    with pytest.raises(errors.Incompatible) as raised:
        collector.raise_problems()
    assert [problem.where for problem in raised.value.problems] == ["adapters, medical", "adapters, legal"]


def test_errors_of_different_kinds_become_an_invalid_spec() -> None:
    collector = ProblemCollector("this request")
    collector.add(errors.Problem(where="rank", what="is too large"))
    with collector.collect():
        raise errors.NotFound("base", "tyni", ["tiny"])
    with pytest.raises(errors.InvalidSpec, match="this request: 2 problems"):
        collector.raise_problems()


def test_other_errors_pass_through() -> None:
    collector = ProblemCollector("this request")
    with pytest.raises(errors.Unavailable), collector.collect():
        raise errors.Unavailable("the database does not answer")
