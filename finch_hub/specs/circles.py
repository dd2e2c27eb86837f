"""Circles in what is to have none, such as the ancestors of versions."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TypeVar

Name = TypeVar("Name", int, str)


def find_circle(parents: Mapping[Name, Set[Name]]) -> set[Name]:
    """Return what is its own ancestor, given the parents of each, and what lies between two such circles."""
    waiting = {child: len(known) for child, known in parents.items()}
    children: dict[Name, list[Name]] = {}
    for child, known in parents.items():
        for parent in known:
            children.setdefault(parent, []).append(child)
    free = [parent for parent in children if not parents.get(parent)]
    while free:
        for child in children.get(free.pop(), ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    left = {child for child, count in waiting.items() if count}
    # What is left are circles and their descendants: drop those of which nothing left was made.
    made_from = {parent: sum(child in left for child in children.get(parent, ())) for parent in left}
    free = [parent for parent, count in made_from.items() if count == 0]
    while free:
        child = free.pop()
        left.discard(child)
        for parent in parents[child] & left:
            made_from[parent] -= 1
            if made_from[parent] == 0:
                free.append(parent)
    return left
