from __future__ import annotations

from typing import Any

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_versions, values
from finch_hub.registry.database import Database
from finch_hub.specs.cards import name_revision


def test_created_version_resolves_to_the_same_value(database: Database) -> None:
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
    assert made == registry.resolve(database, "medical/1")
    assert (made.reference, made.state, made.lineage, made.spec) == ("medical/1", "ready", lineage, spec)
    assert (made.metrics, made.card, made.tags, made.aliases) == ({"loss": 1.5}, "# Medical", ("a", "b"), ())
    assert made.base == registry.add_base(database)


def test_created_version_is_returned_as_it_is_stored(database: Database) -> None:
    """It is not read again, so what the database makes of it must be known."""
    parent = registry.add_version(database, "birds")
    with database.write() as session:
        adapter_names.rename(session, "birds", "team/birds")
    made = registry.add_version(
        database,
        "birds",
        spec={"preset": 7, "texts": ("a\0", "\ud800"), "pair": (1, 2)},
        metrics={"loss": float("nan"), "large": 2**70, "small": 5e-324},
        lineage=values.Lineage(
            parents=(values.ParentVersion(reference="birds@latest", weight=0.25),), environment={"lr": float("inf")}
        ),
        card="# Birds\0",
        owner="ana",
        state="below_retention",
    )
    assert made == registry.resolve(database, "team/birds/2")
    assert [link.reference for link in made.lineage.parents] == ["team/birds/1"]
    assert made.base == parent.base


def test_number_of_a_deleted_version_is_not_reused(database: Database) -> None:
    assert [registry.add_version(database).number for _ in range(3)] == [1, 2, 3]
    assert registry.add_version(database, "legal").number == 1
    registry.delete_version(database, "medical", 3)
    assert registry.add_version(database).number == 4


def test_bare_name_resolves_to_the_newest_ready_version(database: Database) -> None:
    for state in ("ready", "ready", "below_retention", "quarantined"):
        registry.add_version(database, state=state)
    assert registry.resolve(database, "medical").reference == "medical/2"
    assert registry.resolve(database, "medical@latest").reference == "medical/2"
    assert registry.resolve(database, "medical/4").state == "quarantined"
    for number in (1, 2):
        registry.delete_version(database, "medical", number)
    with pytest.raises(errors.Conflict, match=r"adapter medical has no ready version: medical/4 is quarantined"):
        registry.resolve(database, "medical")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("medcal", "no adapter 'medcal' .did you mean 'medical'"),
        ("medical/3", "no adapter version 'medical/3' .did you mean 'medical/1'"),
        ("medical@stabel", "no alias 'medical@stabel' .did you mean 'medical@stable'"),
    ],
)
def test_unknown_reference_is_refused_with_similar_names(database: Database, reference: str, message: str) -> None:
    registry.add_version(database)
    registry.set_alias(database, "medical", "stable", 1)
    with pytest.raises(errors.NotFound, match=message):
        registry.resolve(database, reference)


def test_malformed_names_are_refused(database: Database) -> None:
    for name in ("../x", "latest", "a b", "ａdapter", "x" * 97):
        with pytest.raises(errors.InvalidReference):
            registry.add_version(database, name)
        with pytest.raises(errors.InvalidReference):
            registry.add_version(database, tags=[name])
    registry.add_version(database)
    with pytest.raises(errors.InvalidReference, match="reserved"):
        registry.set_alias(database, "medical", "latest", 1)


def test_tags_are_added_and_removed(database: Database) -> None:
    registry.add_version(database)
    with database.write() as session:
        assert adapter_versions.add_tags(session, "medical", "gold", "eu", "gold").tags == ("eu", "gold")
        assert adapter_versions.remove_tags(session, "medical", "gold", "never").tags == ("eu",)
        assert adapter_versions.add_tags(session, "medical/1", "eu").tags == ("eu",)


def test_tag_has_one_value_which_a_later_one_replaces(database: Database) -> None:
    registry.add_version(database)
    with database.write() as session:
        assert adapter_versions.add_tags(session, "medical", "owner=ana", "gold").tags == ("gold", "owner=ana")
        assert adapter_versions.add_tags(session, "medical", "owner=ben").tags == ("gold", "owner=ben")
        assert adapter_versions.remove_tags(session, "medical", "owner=ana").tags == ("gold", "owner=ben")
        assert adapter_versions.remove_tags(session, "medical", "owner=ben", "gold").tags == ()


def test_version_records_its_owner_its_preset_and_its_last_change(database: Database) -> None:
    made = registry.add_version(database, owner="ana", spec={"preset": "legal"})
    assert (made.owner, made.preset, made.updated_at) == ("ana", "legal", made.created_at)
    with database.write() as session:
        noted = adapter_versions.edit_notes(session, "medical", " For triage. ")
    assert (noted.notes, noted.updated_at > made.created_at) == ("For triage.", True)
    registry.set_alias(database, "medical", "best", 1)
    assert registry.resolve(database, "medical").updated_at > noted.updated_at


def test_edit_of_a_card_changes_only_the_card(database: Database) -> None:
    made = registry.add_version(database, card="old")
    with database.write() as session:
        edited = adapter_versions.edit_card(session, "medical/1", "new")
    assert edited.card_edited_at is not None
    expected = made.evolve(card="new", updated_at=edited.updated_at, card_edited_at=edited.card_edited_at)
    assert edited == expected == registry.resolve(database, "medical")


def test_edit_of_a_card_that_was_edited_meanwhile_is_refused(database: Database) -> None:
    registry.add_version(database, card="old")
    with database.write() as session:
        adapter_versions.edit_card(session, "medical/1", "one", expected=name_revision(None))
    for expected in (name_revision(None), name_revision("other")):
        with pytest.raises(errors.Conflict, match="the card of medical/1 was edited meanwhile"), database.write() as s:
            adapter_versions.edit_card(s, "medical/1", "two", expected=expected)
    with database.write() as session:
        adapter_versions.edit_card(session, "medical/1", "two", expected=name_revision("one"))
        reset = adapter_versions.edit_card(session, "medical/1", "written", is_written=True)
    assert (reset.card, reset.card_edited_at) == ("written", None)


def test_deleting_a_version_with_an_alias_is_refused(database: Database) -> None:
    registry.add_version(database)
    registry.set_alias(database, "medical", "stable", 1)
    with pytest.raises(errors.Conflict, match="cannot delete adapter medical/1: it has the alias medical@stable"):
        registry.delete_version(database, "medical", 1)


def test_unknown_parent_creates_no_version(database: Database) -> None:
    with pytest.raises(errors.NotFound):
        registry.add_version(database, "c", lineage=registry.made_from("a/1"))
    registry.add_version(database, "a")
    assert registry.add_version(database, "c", lineage=registry.made_from("a/1")).number == 1


@pytest.mark.parametrize("key", ["number", "alias", "latest"])
def test_query_of_a_version_joins_no_two_lists(key: Any) -> None:
    """A join of aliases, tags and parents gives a row for each combination of them."""
    text = str(adapter_versions._select_one(key, deleted=False, by_id=False))
    assert "JOIN adapters" in text
    assert not [table for table in ("tags", "aliases", "lineage") if f"JOIN {table}" in text]


def test_unchecked_version_is_shown_and_not_used(database: Database) -> None:
    registry.add_version(database, state="unchecked")
    assert registry.resolve(database, "medical/1").state == "unchecked"
    with database.read() as session:
        for use in (adapter_versions.resolve_usable, adapter_versions.resolve_files):
            with pytest.raises(errors.Conflict, match=r"medical/1 is unchecked: .*base tiny.*adapters check medical/1"):
                use(session, "medical/1")
        with pytest.raises(errors.Conflict, match=r"no ready version: medical/1 is unchecked .run .*adapters check"):
            adapter_versions.resolve(session, "medical")


@pytest.mark.parametrize("state", ["ready", "quarantined", "below_retention"])
def test_checked_version_is_used(database: Database, state: values.VersionState) -> None:
    registry.add_version(database, state=state)
    with database.read() as session:
        assert adapter_versions.resolve_usable(session, "medical/1").state == state
        assert adapter_versions.resolve_files(session, "medical/1").reference == "medical/1"


def test_check_ends_the_state_unchecked_and_no_other(database: Database) -> None:
    registry.add_version(database, state="unchecked")
    registry.add_version(database, state="quarantined")
    with database.write() as session:
        assert adapter_versions.end_check(session, "medical/1", "ready").state == "ready"
        assert adapter_versions.end_check(session, "medical/2", "ready").state == "quarantined"
    assert registry.resolve(database, "medical").reference == "medical/1"


def test_quarantine_takes_ready_versions_and_no_others(database: Database) -> None:
    for state in ("ready", "unchecked"):
        registry.add_version(database, state=state)
    with database.write() as session:
        assert adapter_versions.quarantine(session, "medical/1", job_id="none").state == "quarantined"
        assert adapter_versions.quarantine(session, "medical/2", job_id="none").state == "unchecked"
    with pytest.raises(errors.Conflict, match="no ready version"):
        registry.resolve(database, "medical")


def test_identity_finds_the_first_version_of_a_base_that_is_not_deleted(database: Database) -> None:
    same = registry.digest("bytes")
    registry.add_version(database, identity=registry.digest("others"))
    for name in ("medical", "legal", "medical"):
        registry.add_version(database, name, identity=same)
    base = registry.add_base(database)

    def find(identity: str, base_id: int) -> str | None:
        with database.read() as session:
            found = adapter_versions.find_by_identity(session, identity, base_id)
        return None if found is None else found.reference

    assert find(same, base.id) == "medical/2"
    registry.delete_version(database, "medical", 2)
    assert find(same, base.id) == "legal/1"
    assert find(same, registry.add_base(database, "other").id) is None
    assert find(registry.digest("nobody's"), base.id) is None
