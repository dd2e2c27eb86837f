from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapters, alias_moves
from finch_hub.registry.database import Database


def find(database: Database, reference: str, **page: int) -> list[alias_moves.AliasChange]:
    with database.read() as session:
        return alias_moves.find(session, reference, **page)


@pytest.fixture
def moved(database: Database) -> Database:
    """An adapter whose alias was set, moved, removed and set again, and that has another one."""
    for _ in range(2):
        registry.add_version(database)
    with database.write() as session:
        adapters.set_alias(session, "medical", "best", 1, who="ana", why="it is the first")
        adapters.set_alias(session, "medical", "best", 2, who="bo")
        adapters.set_alias(session, "medical", "best", 2, who="bo")  # changes nothing
        adapters.delete_alias(session, "medical", "best", who="bo", why="it is wrong")
        adapters.set_alias(session, "medical", "worst", 1)
        adapters.set_alias(session, "medical", "best", 1, who="ana")
    return database


def test_history_of_an_alias_names_each_move(moved: Database) -> None:
    history = find(moved, "medical@best")
    assert [(move.from_number, move.to_number, move.who, move.why) for move in history] == [
        (None, 1, "ana", None),
        (2, None, "bo", "it is wrong"),
        (1, 2, "bo", None),
        (None, 1, "ana", "it is the first"),
    ]
    assert {(move.name, move.alias) for move in history} == {("medical", "best")}


def test_history_of_an_adapter_has_all_of_its_aliases_in_pages(moved: Database) -> None:
    first = find(moved, "medical", limit=2)
    assert [move.alias for move in first] == ["best", "worst"]
    assert len(find(moved, "medical", after=first[-1].id)) == 3


def test_unknown_alias_and_adapter_are_refused(moved: Database) -> None:
    with pytest.raises(errors.NotFound, match=r"'medical@bets' .did you mean 'medical@best'"):
        find(moved, "medical@bets")
    with pytest.raises(errors.NotFound, match="did you mean 'medical'"):
        find(moved, "medicl")
    with pytest.raises(errors.InvalidReference, match="a version has no history"):
        find(moved, "medical/1")


def test_refused_move_leaves_no_trace(moved: Database) -> None:
    with pytest.raises(errors.AliasMoved):
        registry.set_alias(moved, "medical", "best", 2, expected=2)
    assert len(find(moved, "medical@best")) == 4
