"""Purges of adapters: files that nothing else refers to go at once, and all others stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import full_hub, registry

from finch_hub import errors, settings
from finch_hub.artifacts import inventory
from finch_hub.registry import adapter_versions, bases, tables, values
from finch_hub.registry.types import later
from finch_hub.specs.references import AdapterReference
from finch_hub.storage.adapter_purging import PurgedAdapter, purge_adapter
from finch_hub.storage.changes import changing
from finch_hub.storage.collection import collect
from finch_hub.storage.stores import Stores, open_stores
from finch_hub.storage.unreferenced import Unreferenced

DAY = 86_400.0


@pytest.fixture
def stores(database_url: str, store_url: str | None, tmp_path: Path) -> Iterator[Stores]:
    places = {"database_url": database_url, "artifacts_url": store_url}
    given = {name: value for name, value in places.items() if value is not None}
    opened = open_stores(settings.load(home=tmp_path / "home", allow_insecure=True, **given))
    opened.artifacts.check()
    yield opened
    opened.database.close()


def add(stores: Stores, folder: Path, name: str, text: str) -> values.AdapterVersion:
    """Add a version. All have the same weights, and cards with their texts."""
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny"))
    return full_hub.add_version(stores, folder, name, base, text=text)


def purge(stores: Stores, reference: str) -> PurgedAdapter:
    with changing(stores, "version.purge", reference) as change:
        return purge_adapter(AdapterReference.parse(reference), change, stores)


def has_files(stores: Stores, version: values.AdapterVersion) -> bool:
    return inventory.has_tree(stores.artifacts, version.digest)


def count_files(stores: Stores) -> int:
    return sum(len(found) for kind in inventory.KINDS for found in inventory.list_artifacts(stores.artifacts, kind))


def test_purge_frees_what_only_the_version_has(stores: Stores, tmp_path: Path) -> None:
    first, second = (add(stores, tmp_path, "legal", text) for text in ("one", "two"))
    folder = stores.artifacts.fetch_tree(first.digest)
    registry.delete(stores.database, "legal/2")  # it can be restored, so it needs the weights
    purged = purge(stores, "legal/1")
    assert (purged.versions, purged.unfreed) == (("legal/1",), None)
    assert purged.bytes > 0
    assert not folder.exists()
    assert not has_files(stores, first)
    assert has_files(stores, second)
    last = purge(stores, "legal")
    assert last.versions == ("legal/2",)
    assert last.bytes > purged.bytes, "its weights are the same"
    assert count_files(stores) == 0


def test_purge_of_one_of_two_versions_with_the_same_files_removes_none(stores: Stores, tmp_path: Path) -> None:
    first = add(stores, tmp_path, "legal", "same")
    with stores.database.write() as session:
        files: dict[str, Any] = {"digest": first.digest, "identity": first.identity, "base": first.base}
        adapter_versions.create(session, name="copy", kind="import", **files)
    assert purge(stores, "legal/1").bytes == 0
    assert has_files(stores, first)
    assert purge(stores, "copy/1").bytes > 0
    assert count_files(stores) == 0


def test_purge_beside_a_damaged_version_leaves_the_files_to_a_collection(stores: Stores, tmp_path: Path) -> None:
    first, damaged = (add(stores, tmp_path, name, name) for name in ("legal", "damaged"))
    with stores.artifacts.access() as files:
        files.remove(inventory.StoredArtifact("trees", damaged.digest, 0, None).path)
    purged = purge(stores, "legal/1")
    assert purged.bytes == 0
    assert "restore the files of adapter damaged/1" in (purged.unfreed or "")
    assert has_files(stores, first)
    purge(stores, "damaged/1")
    collect(stores, unused_days=0)
    assert count_files(stores) == 0


def test_refused_purge_removes_nothing(stores: Stores, tmp_path: Path) -> None:
    first = add(stores, tmp_path, "legal", "one")
    registry.set_alias(stores.database, "legal", "best", 1)
    with pytest.raises(errors.Conflict):
        purge(stores, "legal/1")
    assert has_files(stores, first)
    assert registry.resolve(stores.database, "legal@best").purged_at is None


def test_collection_keeps_a_version_that_is_restored_while_it_runs(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references are read first. What is restored later is looked for again before each removal."""
    version = add(stores, tmp_path, "legal", "one")
    registry.delete(stores.database, "legal")
    with stores.database.write() as session:
        for table in (tables.Adapter, tables.AdapterVersion):
            session.execute(sa.update(table).values(deleted_at=later(-30 * DAY)))
        deleted_at = session.scalars(sa.select(tables.Adapter.deleted_at)).one()
        session.execute(sa.update(tables.AdapterVersion).values(deleted_at=deleted_at))
    scan = Unreferenced.scan

    def restore_first(unreferenced: Unreferenced, kind: Any) -> Iterator[list[inventory.StoredArtifact]]:
        found = list(scan(unreferenced, kind))
        if kind == "trees":
            assert any(found)
            registry.restore(stores.database, "legal")
        yield from found

    monkeypatch.setattr(Unreferenced, "scan", restore_first)
    collect(stores, unused_days=0)
    assert has_files(stores, version)
