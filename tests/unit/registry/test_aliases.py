from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import aliases, values
from finch_hub.registry.database import Database


def test_alias_moves_only_from_the_expected_version(database: Database) -> None:
    for _ in range(3):
        registry.add_version(database)
    registry.set_alias(database, "medical", "stable", 1, expected=0)
    assert registry.resolve(database, "medical@stable").aliases == ("stable",)
    with pytest.raises(errors.AliasMoved, match="medical@stable points at medical/1: expected medical/2"):
        registry.set_alias(database, "medical", "stable", 3, expected=2)
    with pytest.raises(errors.AliasMoved, match="expected no such alias"):
        registry.set_alias(database, "medical", "stable", 3, expected=0)
    registry.set_alias(database, "medical", "stable", 3, expected=1)
    registry.set_alias(database, "medical", "stable", 2)
    assert registry.resolve(database, "medical@stable").number == 2
    assert [version.aliases for version in registry.list_versions(database)] == [(), ("stable",), ()]
    with pytest.raises(errors.AliasMoved, match="does not exist"):
        registry.set_alias(database, "medical", "best", 2, expected=1)


@pytest.mark.parametrize("state", ["below_retention", "quarantined"])
def test_alias_of_a_version_that_is_not_ready_is_refused(database: Database, state: values.VersionState) -> None:
    registry.add_version(database, state=state)
    with pytest.raises(errors.Conflict, match=f"cannot set alias medical@stable: adapter medical/1 is {state}"):
        registry.set_alias(database, "medical", "stable", 1)
    registry.add_version(database)
    registry.set_alias(database, "medical", "stable", 2)


def test_deleting_an_unknown_alias_is_refused(database: Database) -> None:
    registry.add_version(database)
    with pytest.raises(errors.NotFound, match="medical@stable"), database.write() as session:
        aliases.delete_alias(session, "medical", "stable")


def test_deleting_an_alias_keeps_the_other_aliases(database: Database) -> None:
    registry.add_version(database)
    for name in ("best", "stable"):
        registry.set_alias(database, "medical", name, 1)
    with database.write() as session:
        aliases.delete_alias(session, "medical", "stable")
    assert registry.resolve(database, "medical/1").aliases == ("best",)
