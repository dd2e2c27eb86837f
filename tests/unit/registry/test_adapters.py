from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapters, values
from finch_hub.registry.database import Database


def test_search_by_name_tag_and_base_finds_adapters(database: Database) -> None:
    registry.add_version(database, "medical", tags=["gold"])
    registry.add_version(database, "medical", base="small")
    registry.add_version(database, "medical", state="quarantined")
    registry.add_version(database, "legal")
    registry.delete_version(database, "legal", registry.add_version(database, "legal").number)
    registry.set_alias(database, "medical", "stable", 1)
    with database.read() as session:
        everything = adapters.find(session)
        assert [(found.name, found.versions, found.newest.number, found.latest) for found in everything] == [
            ("legal", 1, 1, 1),
            ("medical", 3, 3, 2),
        ]
        assert everything[1].aliases == {"stable": 1}
        assert [found.newest.reference for found in adapters.find(session, name="EDIC")] == ["medical/3"]
        assert [found.newest.reference for found in adapters.find(session, tag="gold")] == ["medical/1"]
        assert [found.newest.reference for found in adapters.find(session, base="small")] == ["medical/2"]
        assert len(adapters.find(session, base=registry.digest("tiny"))) == 2
        assert adapters.find(session, name="%") == []
        assert len(adapters.find(session, limit=1)) == 1


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
        adapters.delete_alias(session, "medical", "stable")


def test_deleting_an_alias_keeps_the_other_aliases(database: Database) -> None:
    registry.add_version(database)
    for name in ("best", "stable"):
        registry.set_alias(database, "medical", name, 1)
    with database.write() as session:
        adapters.delete_alias(session, "medical", "stable")
    assert registry.resolve(database, "medical/1").aliases == ("best",)
