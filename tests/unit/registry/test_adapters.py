from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_versions, adapters, tables, values
from finch_hub.registry.database import Database


def test_list_has_newest_and_latest_version_of_each_adapter(database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "medical", base="small", metrics={"loss_after": 2.5})
    registry.add_version(database, "medical", state="quarantined", metrics={"loss_after": 1.5})
    registry.add_version(database, "legal")
    registry.delete_version(database, "legal", registry.add_version(database, "legal").number)
    registry.delete_version(database, "empty", registry.add_version(database, "empty").number)
    registry.set_alias(database, "medical", "stable", 1)
    with database.read() as session:
        page = adapters.find(session)
    assert [(found.name, found.versions, found.newest.number, found.latest) for found in page.adapters] == [
        ("legal", 1, 1, 1),
        ("medical", 3, 3, 2),
    ]
    medical = page.adapters[1]
    assert (medical.newest.reference, medical.newest.state, medical.newest.base) == ("medical/3", "quarantined", "tiny")
    assert (medical.newest.metrics, medical.aliases) == ({"loss_after": 1.5}, {"stable": 1})
    assert page.next is None


def test_pages_of_the_list_have_each_adapter_once(database: Database) -> None:
    names = ["b", "a", "d", "c"]
    for name in names:
        registry.add_version(database, name)
    found: list[str] = []
    after = None
    for _ in range(2):
        with database.read() as session:
            page = adapters.find(session, limit=2, after=after)
        found += [summary.name for summary in page.adapters]
        after = page.next
    assert found == sorted(names)
    assert after is None


def test_cursor_of_another_list_is_refused(database: Database) -> None:
    for _ in range(2):
        registry.add_version(database, "medical")
    with database.read() as session:
        page = adapter_versions.find(session, "medical", limit=1)
        assert page.next is not None
        rest = adapter_versions.find(session, "medical", after=page.next)
        assert [version.number for version in rest.versions] == [1]
        with pytest.raises(errors.InvalidSpec, match="after: is not a cursor of this list"):
            adapters.find(session, after=page.next)
        with pytest.raises(errors.InvalidSpec, match="limit: 0 is not the size of a page"):
            adapters.find(session, limit=0)


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


def test_new_alias_has_a_letter_and_an_old_one_of_digits_can_be_moved(database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "medical")
    with pytest.raises(errors.InvalidReference, match=r"'3' is all digits, .* .use a name such as v3\)"):
        registry.set_alias(database, "medical", "3", 1)
    registry.set_alias(database, "medical", "v3", 1)
    with database.write() as session:
        session.execute(tables.Alias.__table__.update().values(name="3"))  # as an earlier hub
    registry.set_alias(database, "medical", "3", 2)
    assert registry.resolve(database, "medical@3").number == 2
