from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapters, values
from finch_hub.registry.database import Database


def resolve(database: Database, reference: str) -> values.AdapterVersion:
    with database.read() as session:
        return adapters.resolve(session, reference)


def alias(database: Database, name: str, alias: str, version: int, expected: int | None = None) -> None:
    with database.write() as session:
        adapters.set_alias(session, name, alias, version, expected=expected)


def delete(database: Database, name: str, number: int) -> values.AdapterVersion:
    with database.write() as session:
        return adapters.delete_version(session, name, number)


def of_parents(*references: str) -> values.Lineage:
    return values.Lineage(
        parents=tuple(values.ParentVersion(reference=reference, weight=0.5) for reference in references)
    )


def test_a_version_comes_back_as_it_was_made(database: Database) -> None:
    lineage = values.Lineage(
        train_digest=registry.digest("train"),
        validation_digest=registry.digest("validation"),
        seed=7,
        versions={"torch": "2.13.0"},
        environment={"threads": 2, "dtype": "bfloat16"},
    )
    spec = registry.train_spec().model_dump(mode="json")
    made = registry.add_version(
        database, spec=spec, metrics={"loss": 1.5}, lineage=lineage, card="# Medical", tags=["b", "a", "b"]
    )
    assert made == resolve(database, "medical/1")
    assert (made.reference, made.state, made.lineage, made.spec) == ("medical/1", "ready", lineage, spec)
    assert (made.metrics, made.card, made.tags, made.aliases) == ({"loss": 1.5}, "# Medical", ("a", "b"), ())
    assert made.base == registry.add_base(database)


def test_numbers_count_up_and_are_never_given_again(database: Database) -> None:
    assert [registry.add_version(database).number for _ in range(3)] == [1, 2, 3]
    assert registry.add_version(database, "legal").number == 1
    delete(database, "medical", 3)
    assert registry.add_version(database).number == 4


def test_a_name_means_its_newest_version_that_is_ready(database: Database) -> None:
    for state in ("ready", "ready", "below_retention", "quarantined"):
        registry.add_version(database, state=state)
    assert resolve(database, "medical").reference == "medical/2"
    assert resolve(database, "medical@latest").reference == "medical/2"
    assert resolve(database, "medical/4").state == "quarantined"
    for number in (1, 2):
        delete(database, "medical", number)
    with pytest.raises(errors.Conflict, match=r"medical has no version that is ready \(medical/4 is quarantined\)"):
        resolve(database, "medical")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("medcal", "no adapter 'medcal'; did you mean 'medical'"),
        ("medical/3", "no adapter version 'medical/3'; did you mean 'medical/1'"),
        ("medical@stabel", "no alias 'medical@stabel'; did you mean 'medical@stable'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(database: Database, reference: str, message: str) -> None:
    registry.add_version(database)
    alias(database, "medical", "stable", 1)
    with pytest.raises(errors.NotFound, match=message):
        resolve(database, reference)


def test_names_that_are_not_well_formed_never_enter(database: Database) -> None:
    for name in ("../x", "latest", "a b", "ａdapter", "x" * 97):
        with pytest.raises(errors.InvalidReference):
            registry.add_version(database, name)
        with pytest.raises(errors.InvalidReference):
            registry.add_version(database, tags=[name])
    registry.add_version(database)
    with pytest.raises(errors.InvalidReference, match="reserved"):
        alias(database, "medical", "latest", 1)


def test_an_alias_moves_only_from_where_it_was_expected(database: Database) -> None:
    for _ in range(3):
        registry.add_version(database)
    alias(database, "medical", "stable", 1, expected=0)
    assert resolve(database, "medical@stable").aliases == ("stable",)
    with pytest.raises(errors.AliasMoved, match="medical@stable points at medical/1, not at medical/2"):
        alias(database, "medical", "stable", 3, expected=2)
    with pytest.raises(errors.AliasMoved):
        alias(database, "medical", "stable", 3, expected=0)
    alias(database, "medical", "stable", 3, expected=1)
    alias(database, "medical", "stable", 2)
    assert resolve(database, "medical@stable").number == 2
    assert [version.aliases for version in listed(database)] == [(), ("stable",), ()]
    with pytest.raises(errors.AliasMoved, match="does not exist"):
        alias(database, "medical", "best", 2, expected=1)


def listed(database: Database, name: str = "medical") -> list[values.AdapterVersion]:
    with database.read() as session:
        return adapters.versions(session, name)


@pytest.mark.parametrize("state", ["below_retention", "quarantined"])
def test_no_alias_points_at_what_is_not_ready(database: Database, state: values.VersionState) -> None:
    registry.add_version(database, state=state)
    with pytest.raises(errors.Conflict, match=f"medical/1 is {state}"):
        alias(database, "medical", "stable", 1)
    with database.write() as session:
        assert adapters.set_state(session, "medical/1", "ready").state == "ready"
    alias(database, "medical", "stable", 1)
    with pytest.raises(errors.Conflict, match=f"medical@stable points at medical/1, so it cannot become {state}"):
        set_state(database, "medical/1", state)
    with database.write() as session:
        adapters.delete_alias(session, "medical", "stable")
    assert set_state(database, "medical/1", state).state == state


def set_state(database: Database, reference: str, state: values.VersionState) -> values.AdapterVersion:
    with database.write() as session:
        return adapters.set_state(session, reference, state)


def test_removing_an_alias_that_is_not_there_is_refused(database: Database) -> None:
    registry.add_version(database)
    with pytest.raises(errors.NotFound, match="medical@stable"), database.write() as session:
        adapters.delete_alias(session, "medical", "stable")


def test_tags_come_and_go(database: Database) -> None:
    registry.add_version(database)
    with database.write() as session:
        assert adapters.tag(session, "medical", "gold", "eu", "gold").tags == ("eu", "gold")
        assert adapters.untag(session, "medical", "gold", "never").tags == ("eu",)
        assert adapters.tag(session, "medical/1", "eu").tags == ("eu",)


def test_a_card_can_be_edited_and_nothing_else_changes(database: Database) -> None:
    made = registry.add_version(database, card="old")
    with database.write() as session:
        edited = adapters.edit_card(session, "medical/1", "new")
    assert edited == made.evolve(card="new") == resolve(database, "medical")


def test_adapters_are_found_by_name_tag_and_base(database: Database) -> None:
    registry.add_version(database, "medical", tags=["gold"])
    registry.add_version(database, "medical", base="small")
    registry.add_version(database, "medical", state="quarantined")
    registry.add_version(database, "legal")
    delete(database, "legal", registry.add_version(database, "legal").number)
    alias(database, "medical", "stable", 1)
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


def test_the_same_bytes_are_found_under_any_name(database: Database) -> None:
    first = registry.add_version(database, "medical", identity=registry.digest("same"))
    second = registry.add_version(database, "copy", identity=registry.digest("same"))
    registry.add_version(database, "other")
    with database.read() as session:
        assert adapters.find_identity(session, registry.digest("same")) == [first, second]


def test_lineage_goes_up_to_the_roots_once_each(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "b")
    registry.add_version(database, "c", kind="compose", lineage=of_parents("a/1", "b/1"))
    registry.add_version(database, "d", kind="compose", lineage=of_parents("c/1", "a/1"))
    with database.read() as session:
        tree = adapters.lineage(session, "d")
        assert [child.reference for child in adapters.children(session, "a/1")] == ["c/1", "d/1"]
    assert [parent.version.reference for parent in tree.parents] == ["c/1", "a/1"]
    assert [parent.version.reference for parent in tree.parents[0].parents] == ["a/1", "b/1"]
    assert (tree.weight, tree.parents[0].weight, tree.parents[1].parents) == (1.0, 0.5, ())
    assert tree.version.lineage == of_parents("c/1", "a/1")


def test_a_deleted_version_stays_in_the_lineage_of_others(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "b", kind="quantize", lineage=of_parents("a/1"))
    gone = delete(database, "a", 1)
    assert gone.deleted_at is not None
    with pytest.raises(errors.NotFound, match="no adapter 'a'"):
        resolve(database, "a")
    with pytest.raises(errors.NotFound):
        listed(database, "a")
    with database.read() as session:
        assert [parent.version for parent in adapters.lineage(session, "b").parents] == [gone]
        assert [version.number for version in adapters.versions(session, "a", deleted=True)] == [1]


def test_a_version_with_an_alias_is_not_deleted(database: Database) -> None:
    registry.add_version(database)
    alias(database, "medical", "stable", 1)
    with pytest.raises(errors.Conflict, match="medical@stable points at medical/1, so it cannot be deleted"):
        delete(database, "medical", 1)


def test_a_parent_that_is_not_there_makes_no_version(database: Database) -> None:
    with pytest.raises(errors.NotFound):
        registry.add_version(database, "c", lineage=of_parents("a/1"))
    registry.add_version(database, "a")
    assert registry.add_version(database, "c", lineage=of_parents("a/1")).number == 1
