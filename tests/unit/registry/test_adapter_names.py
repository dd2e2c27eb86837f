import threading

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_names, adapter_versions, adapters, audit
from finch_hub.registry.database import Database
from finch_hub.specs.references import AdapterReference


def rename(database: Database, name: str, new: str) -> None:
    with database.write() as session:
        adapter_names.rename(session, name, new)


def check_free(database: Database, name: str) -> None:
    with database.read() as session:
        adapter_names.check_free(session, name)


def test_versions_of_a_namespace_are_found(database: Database) -> None:
    registry.add_version(database, "team/triage")
    registry.add_version(database, "team/triage")
    registry.add_version(database, "team")
    registry.set_alias(database, "team/triage", "best", 1)
    found = [registry.resolve(database, text).reference for text in ("team/triage", "team/triage@best", "team/1")]
    assert found == ["team/triage/2", "team/triage/1", "team/1"]


def test_renamed_adapter_is_found_by_each_of_its_names(database: Database) -> None:
    registry.add_version(database, "a")
    registry.set_alias(database, "a", "best", 1)
    rename(database, "a", "b")
    rename(database, "a", "team/c")  # by its former name
    for name in ("a", "b", "team/c"):
        references = (name, f"{name}/1", f"{name}@best")
        assert {registry.resolve(database, text).reference for text in references} == {"team/c/1"}
    with database.read() as session:
        assert adapter_versions.resolve_files(session, "a/1").reference == "team/c/1"
        assert [version.reference for version in adapter_versions.find(session, "b").versions] == ["team/c/1"]
        assert adapter_names.list_names(session, 1) == ["team/c", "a", "b"]


def test_next_version_under_a_former_name_is_of_the_renamed_adapter(database: Database) -> None:
    registry.add_version(database, "a")
    rename(database, "a", "b")
    assert registry.add_version(database, "a").reference == "b/2"


def test_changes_under_a_former_name_reach_the_renamed_adapter(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "a")
    rename(database, "a", "b")
    registry.set_alias(database, "a", "best", 1)
    assert registry.resolve(database, "b@best").number == 1
    with database.write() as session:
        adapters.delete_alias(session, "a", "best")
        adapter_deletion.delete(session, AdapterReference("a", version=1))
        adapter_names.describe(session, "a", "Names birds.")
    with database.read() as session:
        (summary,) = adapters.find(session).adapters
    assert (summary.name, summary.description, summary.versions) == ("b", "Names birds.", 1)


def test_each_version_has_the_description_of_its_adapter(database: Database) -> None:
    registry.add_version(database, "birds")
    with database.write() as session:
        adapter_names.describe(session, "birds", "Names birds.")
    with database.read() as session:
        row = adapter_versions.get_row(session, "birds/1")
        found = [adapter_versions.resolve(session, "birds/1"), adapter_versions.to_value(row)]
    assert [version.description for version in found] == ["Names birds.", "Names birds."]


def test_children_name_their_renamed_parent(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "c", kind="compose", lineage=registry.made_from("a/1"))
    (made,) = registry.resolve(database, "c/1").lineage.parents
    rename(database, "a", "b")
    parent = made.evolve(reference="b/1")
    assert registry.resolve(database, "c/1").lineage.parents == (parent,)
    late = registry.add_version(database, "d", kind="compose", lineage=registry.made_from("a/1"))
    assert late.lineage.parents == (parent,)


def test_adapter_gets_a_former_name_back_and_no_other_one_does(database: Database) -> None:
    registry.add_version(database, "a")
    registry.add_version(database, "other")
    rename(database, "a", "b")
    with pytest.raises(errors.Conflict, match=r"another adapter had the name a \(use a-lora\)"):
        rename(database, "other", "a")
    with pytest.raises(errors.Conflict, match=r"another adapter has the name b \(use b-lora\)"):
        rename(database, "other", "b")
    rename(database, "b", "a")
    assert registry.resolve(database, "b").reference == "a/1"
    rename(database, "b", "a")  # a repetition
    with pytest.raises(errors.Conflict, match="adapter a has that name already"):
        rename(database, "a", "a")
    assert registry.resolve(database, "a").reference == "a/1"


def test_unknown_adapter_is_neither_renamed_nor_described(database: Database) -> None:
    registry.add_version(database, "birds")
    with pytest.raises(errors.NotFound, match="birds"):
        rename(database, "bird", "x")
    with database.write() as session, pytest.raises(errors.NotFound, match="birds"):
        adapter_names.describe(session, "bird", "text")


@pytest.mark.parametrize("reference", ["birds/1", "birds@best"])
def test_version_in_place_of_a_name_is_told(database: Database, reference: str) -> None:
    registry.add_version(database, "birds")
    with (
        database.write() as session,
        pytest.raises(errors.InvalidReference, match=rf"'{reference}' is a version, .* .write birds\)"),
    ):
        adapter_names.describe(session, reference, "text")


def test_malformed_name_is_refused_and_changes_nothing(database: Database) -> None:
    registry.add_version(database, "a")
    for new in ("7", "x/7", "../x", "a/b/c", "latest", "x@y", ""):
        with pytest.raises(errors.InvalidReference):
            rename(database, "a", new)
        with pytest.raises(errors.InvalidReference):
            check_free(database, new)
    assert registry.resolve(database, "a").reference == "a/1"


def test_adapter_that_an_earlier_hub_named_with_digits_goes_on(database: Database) -> None:
    registry.add_version(database, "2024")  # a submission would refuse it
    check_free(database, "2024")
    assert registry.resolve(database, "2024/1").reference == "2024/1"


def test_name_of_a_base_is_refused_for_an_adapter_with_a_free_one(database: Database) -> None:
    registry.add_base(database, "birds")
    registry.add_version(database, "birds-lora")
    with pytest.raises(errors.Conflict, match=r"'birds' is taken: a base has it \(use birds-lora-2\)"):
        check_free(database, "birds")
    registry.add_version(database, "a")
    with pytest.raises(errors.Conflict, match="a base has it"):
        rename(database, "a", "birds")


def test_name_of_an_adapter_is_refused_for_a_base_with_a_free_one(database: Database) -> None:
    registry.add_version(database, "former")
    rename(database, "former", "birds")
    for name in ("birds", "former"):
        with pytest.raises(errors.Conflict, match=rf"'{name}' is taken: an adapter .* \(use {name}-base\)"):
            registry.add_base(database, name, rename=True)
    assert registry.add_base(database, "free", rename=True).name == "free"


def test_base_that_nobody_named_is_registered_beside_an_adapter_of_its_name(database: Database) -> None:
    registry.add_version(database, "team/model")
    base = registry.add_base(database, "team/model")  # as a job does
    assert base.name == base.fingerprint


def test_adapter_and_base_that_had_one_name_in_an_earlier_hub_go_on(database: Database) -> None:
    registry.add_base(database, "birds")
    registry.add_version(database, "birds")  # a submission would refuse it
    check_free(database, "birds")
    assert registry.add_version(database, "birds").number == 2
    assert registry.add_base(database, "birds", rename=True).name == "birds"


def test_versions_that_are_made_during_a_rename_are_of_one_adapter(database: Database) -> None:
    registry.add_version(database, "a")

    def add_versions() -> None:
        for _ in range(10):
            registry.add_version(database, "a")

    threads = [threading.Thread(target=add_versions) for _ in range(2)]
    for thread in threads:
        thread.start()
    for new in ("b", "c", "a", "b"):
        rename(database, "a", new)
    for thread in threads:
        thread.join()
    assert [version.number for version in registry.list_versions(database, "a")] == list(range(21, 0, -1))


def test_renamed_adapter_is_deleted_restored_and_purged_by_either_name(database: Database) -> None:
    registry.add_version(database, "a")
    rename(database, "a", "b")
    job = registry.submit(database, spec=registry.train_spec("a"))
    for change in (registry.delete, registry.purge):
        with pytest.raises(errors.Conflict, match=f"adapter b: job {job.id} needs it"):
            change(database, "a")
    registry.cancel(database, job)
    assert registry.delete(database, "a").reference == "b"
    for name in ("a", "b"):
        with pytest.raises(errors.Deleted, match="adapters restore b"):
            registry.add_version(database, name)
        with pytest.raises(errors.Deleted, match="adapters restore b"):
            registry.submit(database, spec=registry.train_spec(name))
        with pytest.raises(errors.Deleted, match="adapters restore b"):
            registry.resolve(database, f"{name}/1")
    assert registry.restore(database, "a").versions == ("b/1",)
    assert registry.purge(database, "a/1").versions == ("b/1",)
    with pytest.raises(errors.Deleted, match="b/1 was purged"):
        registry.resolve(database, "a/1")
    assert registry.add_version(database, "a").number == 2


def test_entries_of_a_renamed_adapter_are_found_by_either_name(database: Database) -> None:
    registry.add_version(database, "a")
    with database.write() as session:
        audit.add(session, who="ana", action="version.tag", on="a/1", details={})
    rename(database, "a", "b")
    with database.write() as session:
        audit.add(session, who="ana", action="version.tag", on="b/1", details={})
    with database.read() as session:
        assert [[entry.on for entry in audit.find(session, on=on)] for on in ("a", "b", "a/1", "b/1", "b/2")] == [
            *[["b/1", "a/1"]] * 4,
            [],
        ]
