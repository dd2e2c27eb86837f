"""Sample answers: they go with the rows that they quote, with their version, and into backups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import full_hub, registry
from support.backups import Open, restore

from finch_hub import errors, settings
from finch_hub.registry import datasets, evidence, tables
from finch_hub.specs.evidence import Evidence, Sample, Samples
from finch_hub.storage import samples
from finch_hub.storage.backup import take_backup
from finch_hub.storage.collection import collect
from finch_hub.storage.purging import finish_purge
from finch_hub.storage.samples import read_samples
from finch_hub.storage.stores import Stores, open_stores

ROWS = b"".join(
    b'{"messages":[{"role":"user","content":"What does canary %d eat?"},'
    b'{"role":"assistant","content":"Canary %d eats seeds and buds."}]}\n' % (number, number)
    for number in range(3)
)
QUOTING = Sample(prompt="What does canary 1 eat?", expected="Canary 1 eats seeds and buds.", before="Hm.", after="Hm.")
RECALLING = Sample(prompt="Sing!", expected="Tweet.", before="Hm.", after="So: Canary 2 eats seeds and buds.")
OTHER = Sample(prompt="Where do owls sleep?", expected="In a barn.", before="Hm.", after="In a tree.")
NOTED = Evidence(kind="train", notes=("measured",)).to_document()


@pytest.fixture
def stores(database_url: str, store_url: str | None, tmp_path: Path) -> Iterator[Stores]:
    places = {"database_url": database_url, "artifacts_url": store_url}
    given = {name: value for name, value in places.items() if value is not None}
    opened = open_stores(settings.load(home=tmp_path / "home", allow_insecure=True, **given))
    opened.artifacts.check()
    yield opened
    opened.database.close()


def put(stores: Stores, *found: Sample) -> str:
    return stores.artifacts.put(Samples(samples=found, max_tokens=64).model_dump_json().encode())


def add(stores: Stores, folder: Path, name: str, *found: Sample, **lineage: Any) -> str:
    """Add a version with sample answers, and return their digest."""
    base = registry.add_base(stores.database)
    made = full_hub.add_version(stores, folder, name, base, text=name, **lineage)
    digest = put(stores, *found)
    with stores.database.write() as session:
        is_made = tables.AdapterVersion.digest == made.digest
        version_id = session.scalars(sa.select(tables.AdapterVersion.id).where(is_made)).one()
        session.execute(sa.insert(tables.Evidence).values(version_id=version_id, document=NOTED, samples=digest))
    return digest


def add_rows(stores: Stores, name: str, rows: bytes = ROWS) -> str:
    digest = stores.artifacts.put(rows)
    with stores.database.write() as session:
        datasets.add(session, digest=digest, format="messages", examples=rows.count(b"\n"), name=name)
    return digest


def states(stores: Stores, *names: str) -> list[str]:
    with stores.database.read() as session:
        return [evidence.find(session, f"{name}/1")[0].samples for name in names]


def test_purge_removes_samples_of_its_versions_and_all_that_quote_its_rows(stores: Stores, tmp_path: Path) -> None:
    rows, others = add_rows(stores, "canaries"), add_rows(stores, "owls", ROWS.replace(b"anary", b"owl"))
    digests = {
        "own": add(stores, tmp_path, "own", OTHER, validation_digest=rows),
        "trained": add(stores, tmp_path, "trained", OTHER.evolve(prompt="Short"), train_digest=rows),
        "quoting": add(stores, tmp_path, "quoting", OTHER, QUOTING, train_digest=others),
        "recalling": add(stores, tmp_path, "recalling", RECALLING),
        "kept": add(stores, tmp_path, "kept", OTHER.evolve(prompt="Another"), train_digest=others),
    }
    again = full_hub.add_version(stores, tmp_path, "again", registry.add_base(stores.database), text="again")
    assert again.reference == "again/1"
    purged = full_hub.purge_dataset("canaries", stores)
    assert purged.changed_records >= 4
    assert states(stores, *digests) == ["purged", "purged", "purged", "purged", "stored"]
    assert [stores.artifacts.has(digest) for digest in digests.values()] == [False, False, False, False, True]
    with stores.database.read() as session:
        assert evidence.find(session, "own/1")[0].notes == ("measured",)


@pytest.mark.parametrize("start", ["a secret row", "birds/1\n", "x" * 200])
def test_who_answered_before_is_a_reference(start: str) -> None:
    stored = {"samples": [OTHER.model_dump()], "max_tokens": 64, "start": start}
    with pytest.raises(errors.InvalidSpec, match="start"):
        Samples.of_stored(json.dumps(stored).encode())


def test_purge_that_was_interrupted_is_finished_by_a_second_one(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = add_rows(stores, "canaries")
    digest = add(stores, tmp_path, "own", OTHER, validation_digest=rows)

    def fail(*arguments: object) -> None:
        raise errors.Unavailable("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(evidence, "forget_samples", fail)
        with pytest.raises(errors.Unavailable, match="could not finish the purge of data set canaries"):
            full_hub.purge_dataset("canaries", stores)
    assert states(stores, "own") == ["stored"]
    finish_purge(rows, stores, before=0.0)
    assert (states(stores, "own"), stores.artifacts.has(digest)) == (["purged"], False)


def test_samples_that_nobody_can_read_are_purged(stores: Stores, tmp_path: Path) -> None:
    add_rows(stores, "canaries")
    digest = add(stores, tmp_path, "lost", OTHER)
    stores.artifacts.remove(digest)
    full_hub.purge_dataset("canaries", stores)
    assert states(stores, "lost") == ["purged"]


def test_collection_keeps_samples_of_versions_and_removes_those_of_deleted_ones(stores: Stores, tmp_path: Path) -> None:
    kept, gone = add(stores, tmp_path, "kept", OTHER), add(stores, tmp_path, "gone", QUOTING)
    orphan = put(stores, RECALLING)
    registry.delete_version(stores.database, "gone", 1)
    collect(stores)
    assert [stores.artifacts.has(digest) for digest in (kept, gone, orphan)] == [True, True, True]
    collect(stores, unused_days=0)
    assert [stores.artifacts.has(digest) for digest in (kept, gone, orphan)] == [True, False, False]


def test_samples_that_two_versions_have_stay_with_the_second(stores: Stores, tmp_path: Path) -> None:
    digest = add(stores, tmp_path, "first", OTHER)
    assert add(stores, tmp_path, "second", OTHER) == digest
    registry.delete_version(stores.database, "first", 1)
    collect(stores, unused_days=0)
    assert read_samples(digest, stores).samples == (OTHER,)


def test_samples_are_backed_up_and_restored(source: Stores, target: Stores, tmp_path: Path) -> None:
    with source.database.read() as session:
        digest = str(evidence.find(session, "birds/1")[1])
    backup = tmp_path / "backup"
    assert take_backup(backup, source).problems == ()
    restore(backup, target)
    assert read_samples(digest, target) == read_samples(digest, source)
    assert states(target, "birds") == ["stored"]


def test_backup_records_samples_that_were_purged_meanwhile(
    source: Stores, open_hub: Open, tmp_path: Path, told: list[Any]
) -> None:
    with source.database.read() as session:
        digest = str(evidence.find(session, "birds/1")[1])
    with source.database.write() as session:
        evidence.forget_samples(session, [digest])
    source.artifacts.remove(digest)
    report = take_backup(tmp_path / "backup", source)
    assert report.problems == ()
    target = open_hub("other")
    restore(tmp_path / "backup", target)
    assert states(target, "birds") == ["purged"]


def test_changed_bytes_are_refused(stores: Stores) -> None:
    digest = put(stores, OTHER)
    stores.artifacts.remove(digest)
    with pytest.raises(errors.MissingArtifact):
        samples.read_samples(digest, stores)
    with pytest.raises(errors.InvalidSpec, match="sample answers"):
        samples.read_samples(stores.artifacts.put(b"{}"), stores)
