"""Purges, deletions and moves of aliases beside what depends on them: no order of the two loses anything."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import full_hub, registry

from finch_hub import errors, settings
from finch_hub.artifacts import inventory
from finch_hub.registry import adapter_versions, adapters, alias_moves, artifact_lock, bases, values
from finch_hub.registry.database import Database
from finch_hub.specs.references import AdapterReference
from finch_hub.storage import adapter_purging
from finch_hub.storage.adapter_purging import purge_adapter
from finch_hub.storage.changes import changing
from finch_hub.storage.stores import Stores, open_stores

CHANGES: dict[str, Callable[[Database], Any]] = {
    "purge a version": lambda database: registry.purge(database, "medical/1"),
    "purge an adapter": lambda database: registry.purge(database, "medical"),
    "delete an adapter": lambda database: registry.delete(database, "medical"),
}


@pytest.fixture
def stores(database_url: str, tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(settings.load(home=tmp_path / "home", allow_insecure=True, database_url=database_url))
    opened.artifacts.check()
    yield opened
    opened.database.close()


@pytest.mark.parametrize("change", CHANGES)
def test_change_waits_for_a_submission_that_is_not_committed(database: Database, change: str) -> None:
    registry.add_version(database)
    specs = [registry.merge_spec("medical/1")]
    if change != "purge a version":
        specs += [registry.train_spec("medical")]  # type: ignore[list-item]
    for spec in specs:
        with ThreadPoolExecutor(1) as threads:
            with database.write() as session:
                job = registry.submit_job(session, spec)
                changed = threads.submit(CHANGES[change], database)
                concurrent.futures.wait([changed], timeout=1)  # as long as it would take if it did not wait
            with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
                changed.result()
        registry.cancel(database, job)


@pytest.mark.parametrize("reference", ["medical/1", "medical"])
def test_submission_waits_for_a_purge_that_is_not_committed(database: Database, reference: str) -> None:
    from finch_hub.registry import adapter_purges

    registry.add_version(database)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            adapter_purges.purge(session, AdapterReference.parse(reference))
            submitted = threads.submit(registry.submit, database, spec=registry.merge_spec("medical/1"))
            concurrent.futures.wait([submitted], timeout=1)
        with pytest.raises(errors.Deleted, match="medical/1 was purged"):
            submitted.result()


def test_new_version_waits_for_a_deletion_of_the_adapter(database: Database) -> None:
    from finch_hub.registry import adapter_deletion

    registry.add_version(database)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            adapter_deletion.delete(session, AdapterReference("medical"))
            added = threads.submit(registry.add_version, database, "medical")
            concurrent.futures.wait([added], timeout=1)
        with pytest.raises(errors.Deleted, match="adapters restore medical"):
            added.result()


def test_purge_waits_for_the_registration_of_a_child(database: Database) -> None:
    made = registry.add_version(database)
    fields: dict[str, Any] = {"digest": made.digest, "identity": made.identity, "base": made.base}
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            artifact_lock.share(session)  # as each registration does
            lineage = registry.made_from("medical/1")
            adapter_versions.create(session, name="less", kind="quantize", lineage=lineage, **fields)
            purged = threads.submit(registry.purge, database, "medical/1")
            concurrent.futures.wait([purged], timeout=1)
        with pytest.raises(errors.Conflict, match="less/1 was made of it"):
            purged.result()


def test_same_bytes_that_are_registered_during_a_purge_stay(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny"))
    full_hub.add_version(stores, tmp_path, "legal", base, text="same")
    remove = adapter_purging._remove_files
    again: list[values.AdapterVersion] = []

    def register_first(trees: Any, of: Stores) -> int:
        again.append(full_hub.add_version(of, tmp_path, "copy", base, text="same"))
        return remove(trees, of)

    monkeypatch.setattr(adapter_purging, "_remove_files", register_first)
    with changing(stores, "version.purge", "legal/1") as change:
        purged = purge_adapter(AdapterReference.parse("legal/1"), change, stores)
    assert purged.bytes == 0
    assert inventory.has_tree(stores.artifacts, again[0].digest)


def test_purges_beside_registrations_of_the_same_bytes_leave_each_version_its_files(
    stores: Stores, tmp_path: Path
) -> None:
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny"))
    full_hub.add_version(stores, tmp_path, "legal", base, text="same")
    folder = tmp_path / "files-legal-same"

    def register(number: int) -> None:
        for _ in range(5):
            digest = stores.artifacts.put_tree(folder)
            with stores.database.write() as session:
                artifact_lock.share(session)
                if inventory.has_tree(stores.artifacts, digest):  # otherwise the user is told to try again
                    fields: dict[str, Any] = {"digest": digest, "identity": "0" * 64, "base": base}
                    adapter_versions.create(session, name=f"copy{number}", kind="train", **fields)

    def purge(number: int) -> None:
        for _ in range(5):
            name = ("legal", "copy0", "copy1")[number % 3]
            with contextlib.suppress(errors.NotFound), changing(stores, "adapter.purge", name) as change:
                purge_adapter(AdapterReference.parse(name), change, stores)

    with ThreadPoolExecutor(5) as threads:
        for done in (threads.map(register, range(2)), threads.map(purge, range(3))):
            list(done)
    with stores.database.read() as session:
        names = [summary.name for summary in adapters.find(session).adapters]
        present = [adapter_versions.resolve_files(session, name).digest for name in names]
    assert all(inventory.has_tree(stores.artifacts, digest) for digest in present)


def test_concurrent_moves_of_an_alias_leave_a_history_without_gaps(database: Database) -> None:
    for _ in range(4):
        registry.add_version(database)

    def move(number: int) -> None:
        for step in range(10):
            with contextlib.suppress(errors.NotFound), database.write() as session:
                if (number + step) % 5 == 4:
                    adapters.delete_alias(session, "medical", "best", who=f"user-{number}")
                else:
                    version = (number + step) % 4 + 1
                    adapters.set_alias(session, "medical", "best", version, who=f"user-{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(move, range(4)))
    with database.read() as session:
        history = alias_moves.find(session, "medical@best")[::-1]
        row = adapters.find(session).adapters[0].aliases.get("best")
    assert len(history) > 4
    assert [move.from_number for move in history] == [None, *(move.to_number for move in history[:-1])]
    assert history[-1].to_number == row


def test_one_of_two_users_who_expect_the_same_version_moves_the_alias(database: Database) -> None:
    for _ in range(3):
        registry.add_version(database)
    registry.set_alias(database, "medical", "best", 1)

    def move(version: int) -> bool:
        try:
            registry.set_alias(database, "medical", "best", version, expected=1)
        except errors.AliasMoved:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(move, (2, 3))) == [False, True]
    with database.read() as session:
        assert len(alias_moves.find(session, "medical@best")) == 2
