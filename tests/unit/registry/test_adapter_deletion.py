from __future__ import annotations

import re
from datetime import datetime

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_names, adapters, bases, tables
from finch_hub.registry.database import Database, Session
from finch_hub.specs.cursors import write_cursor
from finch_hub.specs.references import AdapterReference


@pytest.fixture
def versions(database: Database) -> Database:
    """An adapter with three versions, of which the first is deleted, and another one."""
    for _ in range(3):
        registry.add_version(database, "legal")
    registry.add_version(database, "medical")
    registry.delete_version(database, "legal", 1)
    return database


def find(database: Database, limit: int = 100) -> list[tuple[str, int]]:
    with database.read() as session:
        return [(found.reference, found.versions) for found in adapter_deletion.find(session, limit=limit).deletions]


def restore(database: Database, reference: str, *, lost: str = "") -> list[str]:
    with database.write() as session:
        parsed = AdapterReference.parse(reference)
        list_damage = lambda digest: None if digest == lost else ()  # noqa: E731
        return list(adapter_deletion.restore(session, parsed, list_damage=list_damage).versions)


def test_deleted_adapter_is_hidden_and_restored_with_the_versions_of_that_moment(versions: Database) -> None:
    deletion = registry.delete(versions, "legal")
    assert (deletion.reference, deletion.versions) == ("legal", 2)
    for reference in ("legal", "legal/2"):
        with pytest.raises(errors.Deleted, match=r"adapter legal was deleted .run `finch-hub adapters restore legal`"):
            registry.resolve(versions, reference)
    with pytest.raises(errors.Deleted):
        registry.list_versions(versions, "legal")
    with versions.read() as session:
        assert [summary.name for summary in adapters.find(session).adapters] == ["medical"]
    assert find(versions) == [("legal", 2), ("legal/1", 1)]
    assert find(versions, limit=1) == [("legal", 2)]
    with pytest.raises(errors.Deleted):
        registry.delete(versions, "legal")
    assert restore(versions, "legal") == ["legal/2", "legal/3"]
    assert registry.resolve(versions, "legal").number == 3
    with pytest.raises(errors.Deleted, match=r"legal/1 was deleted .run `finch-hub adapters restore legal/1`"):
        registry.resolve(versions, "legal/1")
    assert find(versions) == [("legal/1", 1)]
    assert restore(versions, "legal/1") == ["legal/1"]
    assert find(versions) == []


def test_pages_of_deletions_hold_each_once_also_those_of_one_moment(versions: Database) -> None:
    for _ in range(3):
        registry.add_version(versions, "medical")
    registry.add_version(versions, "other")
    registry.delete_version(versions, "medical", 2)
    registry.delete_version(versions, "medical", 3)
    registry.delete(versions, "legal")
    registry.delete(versions, "other")
    with versions.write() as session:  # a whole adapter, two versions of another one, and a single one before
        moment = session.scalar(sa.select(tables.Adapter.deleted_at).where(tables.Adapter.name == "other"))
        for table, is_meant in (
            (tables.Adapter, tables.Adapter.name == "legal"),
            (tables.AdapterVersion, tables.AdapterVersion.deleted_at > sa.literal(_first_deletion(session))),
        ):
            session.execute(sa.update(table).where(is_meant).values(deleted_at=moment))
    wanted = find(versions)
    assert sorted(wanted) == [("legal", 2), ("legal/1", 1), ("medical/2", 1), ("medical/3", 1), ("other", 1)]
    assert wanted[-1] == ("legal/1", 1)
    for limit in (1, 2, 3, 5):
        pages, after = [], None
        while True:
            with versions.read() as session:
                page = adapter_deletion.find(session, limit=limit, after=after)
            pages += [(found.reference, found.versions) for found in page.deletions]
            if (after := page.next) is None:
                break
        assert pages == wanted
    forged = ("x", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00")
    for text in ("x", *(write_cursor("deleted adapters", (moment, 0, 1)) for moment in forged)):
        with versions.read() as session, pytest.raises(errors.InvalidSpec, match="not a cursor of this list"):
            adapter_deletion.find(session, after=text)


def _first_deletion(session: Session) -> datetime:
    first = session.scalar(sa.select(sa.func.min(tables.AdapterVersion.deleted_at)))
    assert first is not None
    return first


def test_version_that_never_had_files_is_no_deletion_and_says_what_brings_it(versions: Database) -> None:
    with versions.write() as session:
        identity = {"digest": tables.AdapterVersion.identity}
        session.execute(
            sa.update(tables.AdapterVersion).where(tables.AdapterVersion.deleted_at.is_not(None)).values(identity)
        )
    assert find(versions) == []
    fix = r"legal/1.*came with a bundle without its files \(unbundle a bundle that has them\)"
    with pytest.raises(errors.Deleted, match=fix):
        registry.resolve(versions, "legal/1")
    with pytest.raises(errors.Conflict, match=f"cannot restore adapter {fix}"):
        restore(versions, "legal/1")


def test_new_version_of_a_deleted_adapter_is_refused(versions: Database) -> None:
    registry.delete(versions, "legal")
    with pytest.raises(errors.Deleted, match="adapters restore legal"):
        registry.add_version(versions, "legal")
    with pytest.raises(errors.Deleted, match="adapters restore legal"):
        registry.submit(versions, spec=registry.train_spec("legal"))
    registry.submit(versions, spec=registry.train_spec("medical"))
    restore(versions, "legal")
    assert registry.add_version(versions, "legal").number == 4


def test_deletion_of_an_adapter_names_all_aliases_and_jobs(versions: Database) -> None:
    for alias in ("best", "worst"):
        registry.set_alias(versions, "legal", alias, 3)
    made = [
        registry.submit(versions, spec=spec).id
        for spec in (registry.merge_spec("legal/2"), registry.train_spec("legal"), registry.train_spec("other"))
    ]
    message = (
        "cannot delete adapter legal: 2 reasons\n"
        "  it has the aliases legal@best, legal@worst (move or delete them first, as in"
        " `finch-hub adapters alias legal best --delete`)\n"
        f"  jobs {made[0]}, {made[1]} need it (cancel them or wait until they end)"
    )
    with pytest.raises(errors.Conflict, match=re.escape(message)):
        registry.delete(versions, "legal")
    with versions.write() as session:
        for alias in ("best", "worst"):
            adapters.delete_alias(session, "legal", alias)
    for job_id in made[:2]:
        registry.cancel(versions, registry.get(versions, job_id))
    registry.delete(versions, "legal")


def test_restoration_of_what_is_not_deleted_is_refused(versions: Database) -> None:
    for reference in ("legal", "legal/2"):
        with pytest.raises(errors.Conflict, match=f"cannot restore adapter {reference}: it is not deleted"):
            restore(versions, reference)
    registry.delete(versions, "legal/2")
    with pytest.raises(errors.Conflict, match="as in `finch-hub adapters restore legal/"):
        restore(versions, "legal")
    registry.purge(versions, "legal")
    with pytest.raises(errors.Deleted, match="adapter legal was purged: nothing is left"):
        restore(versions, "legal")
    for reference in ("nobody", "nobody/1", "legal/9"):
        with pytest.raises(errors.NotFound):
            restore(versions, reference)


def test_version_of_a_deleted_adapter_is_not_restored_alone(versions: Database) -> None:
    registry.delete(versions, "legal")
    with pytest.raises(errors.Deleted, match="adapters restore legal`"):
        restore(versions, "legal/2")


def test_version_without_its_files_or_its_base_is_not_restored(versions: Database) -> None:
    made = registry.add_version(versions, "poem", base="other", digest=registry.digest("poem"))
    registry.delete(versions, "poem")
    with versions.write() as session:
        bases.remove(session, "other")
    message = (
        r"the base of poem/1 was removed .run `finch-hub bases add /models/other` first(.|\n)*the files of poem/1 were"
    )
    with pytest.raises(errors.Conflict, match=message):
        restore(versions, "poem", lost=made.digest)
    registry.add_base(versions, "other")
    assert restore(versions, "poem") == ["poem/1"]


def test_versions_that_cannot_be_restored_stay_deleted_and_the_others_come_back(database: Database) -> None:
    registry.add_version(database, "birds", base="removed")
    for number in range(2, 6):
        registry.add_version(database, "birds", digest=registry.digest(f"tree {number}"))
    registry.delete(database, "birds")
    with database.write() as session:
        bases.remove(session, "removed")
    damage: dict[str, list[str] | None] = {
        registry.digest("tree 2"): None,
        registry.digest("tree 4"): ["a blob is cut"],
    }
    with database.write() as session:
        list_damage = lambda digest: damage.get(digest, [])  # noqa: E731
        restored = adapter_deletion.restore(session, AdapterReference("birds"), list_damage=list_damage)
    assert restored.versions == ("birds/3", "birds/5")
    of_base, of_lost, of_damaged = restored.problems
    assert of_base.startswith("the base of birds/1 was removed")
    assert of_lost.startswith("the files of birds/2 were removed since")
    assert of_damaged.startswith("the files of birds/4 are damaged: a blob is cut (run `finch-hub fsck`")
    assert registry.resolve(database, "birds").number == 5
    assert sorted(find(database)) == [("birds/1", 1), ("birds/2", 1), ("birds/4", 1)]
    assert restore(database, "birds/4") == ["birds/4"]  # once its file was mended
    with pytest.raises(errors.Conflict, match="the files of birds/2 were removed since"):
        restore(database, "birds/2", lost=registry.digest("tree 2"))


def test_extent_of_a_deletion_has_what_it_deletes(database: Database) -> None:
    for size in (1500, 500, None):
        registry.add_version(database, "legal", metrics={} if size is None else {"bytes": size})
    registry.delete(database, "legal/2")
    with database.write() as session:
        adapter_names.rename(session, "legal", "law")
    with database.read() as session:
        for reference, extent in (("legal", (2, 1500)), ("law/1", (1, 1500)), ("legal/3", (1, 0))):
            assert adapter_deletion.measure(session, AdapterReference.parse(reference)) == extent
        for reference in ("law/2", "gone"):
            with pytest.raises(errors.NotFound):
                adapter_deletion.measure(session, AdapterReference.parse(reference))


def test_deletion_of_an_adapter_without_versions_is_refused(versions: Database) -> None:
    registry.delete(versions, "medical/1")
    for reference in ("medical", "nobody"):
        with pytest.raises(errors.NotFound):
            registry.delete(versions, reference)
