"""Circles among the ancestors of things."""

from __future__ import annotations

import pytest

from finch_hub.specs.circles import find_circle


@pytest.mark.parametrize(
    ("parents", "circle"),
    [
        ({}, ""),
        ({"b": {"a"}, "c": {"a", "b"}, "d": set()}, ""),
        ({"a": {"a"}, "b": {"a"}}, "a"),
        ({"a": {"b"}, "b": {"c", "z"}, "c": {"a"}, "leaf": {"a"}, "deep": {"leaf"}}, "abc"),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, "abcd"),
    ],
)
def test_only_members_of_circles_are_found(parents: dict[str, set[str]], circle: str) -> None:
    assert find_circle(parents) == set(circle)


def test_a_long_chain_is_no_circle_and_a_long_circle_is_one() -> None:
    chain = {number: {number - 1} for number in range(1, 20_000)}
    assert find_circle(chain) == set()
    assert len(find_circle(chain | {0: {19_999}})) == 20_000
