"""Equal shares of the tests, for runs that have no time for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def split(items: Sequence[Item], share: str) -> tuple[list[Item], list[Item]]:
    """Return the items of a share such as "2/3", and the others. Neighbors, which take alike, are in different ones."""
    number, count = (int(part) for part in share.split("/"))
    if not 1 <= number <= count:
        raise ValueError(f"the share {share} does not exist (give one from 1/{count} to {count}/{count})")
    mine = [item for place, item in enumerate(items) if place % count == number - 1]
    return mine, [item for place, item in enumerate(items) if place % count != number - 1]
