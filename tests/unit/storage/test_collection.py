"""Collection: what nobody refers to goes, everything else stays, also beside writers and other collections."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy as sa
from support import full_hub, registry
from support.fleet import write_adapter

from finch_hub import Hub, errors, settings
from finch_hub.artifacts import checkpoints, inventory
from finch_hub.registry import attempts, bases, datasets, deployment, tables, values
from finch_hub.registry.database import Database
from finch_hub.registry.text_removal import remove_texts
from finch_hub.registry.types import later
from finch_hub.specs.collections import CollectionReport
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec, TrainSpec
from finch_hub.storage import collection, publishing, purging
from finch_hub.storage.collection import collect
from finch_hub.storage.stores import Stores, open_stores
from finch_hub.storage.unreferenced import Unreferenced
from finch_hub.workers.supervision.work_folders import WorkFolders

DAY = 86_400.0
ROWS = b"".join(
    b'{"messages":[{"role":"user","content":"What does finch %d eat?"},'
    b'{"role":"assistant","content":"Seeds and many buds. %d"}]}\n' % (number, number)
    for number in range(3)
)


@pytest.fixture
def stores(database_url: str, store_url: str | None, tmp_path: Path) -> Iterator[Stores]:
    places = {"database_url": database_url, "artifacts_url": store_url}
    given = {name: value for name, value in places.items() if value is not None}
    opened = open_stores(settings.load(home=tmp_path / "home", allow_insecure=True, **given))
    opened.artifacts.check()
    yield opened
    opened.database.close()


def add_version(stores: Stores, folder: Path, name: str, **lineage: Any) -> values.AdapterVersion:
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny"))
    return full_hub.add_version(stores, folder, name, base, text=name, **lineage)


def add_data(stores: Stores, text: bytes, *, of_jobs: bool, name: str | None = None, age: float = 0.0) -> str:
    digest = stores.artifacts.put(text)
    with stores.database.write() as session:
        num_rows = text.count(b"\n")
        datasets.add(session, digest=digest, format="messages", examples=num_rows, of_jobs=of_jobs, name=name)
        is_new = tables.Dataset.digest == digest
        session.execute(sa.update(tables.Dataset).where(is_new).values(created_at=later(-age)))
    return digest


def counts(report: CollectionReport) -> dict[str, int]:
    return {item.what: item.count for item in report.collected}


def is_whole(stores: Stores, *digests: str) -> bool:
    return all(inventory.has_tree(stores.artifacts, digest) for digest in digests)


def test_nothing_that_is_referred_to_goes(stores: Stores, tmp_path: Path) -> None:
    full_hub.fill(stores, tmp_path)
    before = full_hub.read_all(stores.database)
    with stores.database.read() as session:
        trees = session.scalars(
            sa.select(tables.AdapterVersion.digest).where(~tables.AdapterVersion.deleted_at.is_not(None))
        )
        needed = list(trees)
    collect(stores, unused_days=0)
    assert is_whole(stores, *needed)
    for row in before["datasets"]:
        assert stores.artifacts.has(row["digest"]) == (row["purged_at"] is None)
    assert full_hub.read_all(stores.database) == before
    assert collect(stores, unused_days=0).collected == ()


def test_files_of_deleted_versions_and_orphans_go(stores: Stores, tmp_path: Path) -> None:
    kept, deleted = add_version(stores, tmp_path, "kept"), add_version(stores, tmp_path, "deleted")
    registry.delete_version(stores.database, "deleted", 1)
    orphan = stores.artifacts.put(b"of a writer that died")
    fetched = [stores.artifacts.fetch_tree(version.digest) for version in (kept, deleted)]
    assert collect(stores).collected == (), "all of it is younger than a week"
    previewed = collect(stores, unused_days=0, dry_run=True)
    assert stores.artifacts.has(orphan)
    assert is_whole(stores, deleted.digest)
    report = collect(stores, unused_days=0)
    assert counts(report) == counts(previewed)
    assert report.bytes == previewed.bytes > 0
    assert counts(report) == {"adapters without a version": 1, "files without a reference": 3, "fetched adapters": 1}
    assert not stores.artifacts.has(orphan)
    assert is_whole(stores, kept.digest)
    assert not is_whole(stores, deleted.digest)
    assert [folder.exists() for folder in fetched] == [True, False]


def test_data_of_jobs_goes_when_history_and_versions_are_gone(stores: Stores, tmp_path: Path) -> None:
    added = add_data(stores, b'{"text":"added"}\n', of_jobs=False)
    named = add_data(stores, b'{"text":"named"}\n', of_jobs=True, name="named")
    trained = add_data(stores, b'{"text":"trained"}\n', of_jobs=True)
    read = add_data(stores, b'{"text":"read"}\n', of_jobs=True)
    unused = add_data(stores, b'{"text":"unused"}\n', of_jobs=True)
    add_version(stores, tmp_path, "birds", train_digest=trained)
    job = registry.submit(stores.database, spec=EvaluateSpec(dataset=read, base=BaseModelSource(source="tiny")))
    assert collect(stores).collected == ()
    assert counts(collect(stores, unused_days=0)) == {"data sets of jobs": 1, "files without a reference": 1}
    assert [stores.artifacts.has(digest) for digest in (added, named, trained, read, unused)] == [True] * 4 + [False]
    with stores.database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == job.id))
    registry.delete_version(stores.database, "birds", 1)
    collect(stores, unused_days=0)
    assert [stores.artifacts.has(digest) for digest in (added, named, trained, read)] == [True, True, False, False]
    with stores.database.read() as session:
        assert datasets.find_digest(session, unused) is None


def test_registration_of_what_a_collection_removed_is_refused(stores: Stores, tmp_path: Path) -> None:
    """A collection without a grace time runs between the write of an artifact and its registration."""
    from finch_hub.hub.examples import StoredExamples, register_examples

    text = b'{"text":"new"}\n'
    digest = stores.artifacts.put(text)
    write_adapter(tmp_path / "adapter")
    description = publishing.Description(name="birds", kind="import", base=registry.describe_base("tiny"))
    create_version = publishing.publish(tmp_path / "adapter", stores, description, {})
    collect(stores, unused_days=0)
    examples = StoredExamples(digest=digest, format="messages", examples=1, bytes=len(text))
    with pytest.raises(errors.Conflict, match="removed while it was stored"), stores.database.write() as session:
        register_examples(session, examples, stores)
    with pytest.raises(errors.Unavailable, match="from the store meanwhile"), stores.database.write() as session:
        create_version(session, bases.add(session, description.base))
    with stores.database.read() as session:
        assert datasets.find_digest(session, digest) is None
        assert session.scalars(sa.select(tables.AdapterVersion.id)).all() == []


def test_artifact_that_is_registered_after_the_look_stays(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = stores.artifacts.put(b"unused")
    made: list[values.AdapterVersion] = []
    texts: list[str] = []
    unreferenced = Unreferenced

    def register_behind(*arguments: Any, **options: Any) -> Any:
        found = unreferenced(*arguments, **options)
        made.append(add_version(stores, tmp_path, "late"))
        texts.append(add_data(stores, b'{"text":"late"}\n', of_jobs=True))
        return found

    register_behind.read_trees = unreferenced.read_trees  # type: ignore[attr-defined]
    monkeypatch.setattr(collection, "Unreferenced", register_behind)
    collect(stores, unused_days=0)
    assert not stores.artifacts.has(orphan)
    assert is_whole(stores, made[0].digest)
    assert stores.artifacts.has(texts[0])


def test_collections_beside_each_other_and_writers_lose_nothing(stores: Stores, tmp_path: Path) -> None:
    for number in range(20):
        stores.artifacts.put(f"orphan {number}".encode())

    def write_some(thread: int) -> list[str]:
        digests = []
        for number in range(6):
            with contextlib.suppress(errors.Conflict):  # its text was removed before it was registered
                text = f'{{"text":"{thread} {number}"}}\n'.encode()
                digest = stores.artifacts.put(text)
                with stores.database.write() as session:
                    from finch_hub.hub.examples import StoredExamples, register_examples

                    examples = StoredExamples(digest=digest, format="messages", examples=1, bytes=len(text))
                    register_examples(session, examples, stores)
                digests.append(digest)
        return digests

    with ThreadPoolExecutor(4) as threads:
        writing = threads.map(write_some, range(2))
        reports = list(threads.map(lambda _: collect(stores, unused_days=0), range(2)))
        written = [digest for digests in writing for digest in digests]
    assert all(stores.artifacts.has(digest) for digest in written)
    assert sum(counts(report).get("files without a reference", 0) for report in reports) >= 20


def test_missing_files_of_a_version_stop_a_collection(stores: Stores, tmp_path: Path) -> None:
    registry.add_version(stores.database, "lost")
    orphan = stores.artifacts.put(b"perhaps of the lost version")
    message = (
        r"cannot tell which artifacts are needed: .* \(restore the files of adapter lost/1 or delete that version\)"
    )
    with pytest.raises(errors.Conflict, match=message):
        collect(stores, unused_days=0)
    assert stores.artifacts.has(orphan)


def test_missing_files_of_a_deleted_version_stop_no_collection(stores: Stores, tmp_path: Path) -> None:
    """The error for missing files says to delete the version."""
    registry.add_version(stores.database, "lost")
    registry.delete_version(stores.database, "lost", 1)
    kept = add_version(stores, tmp_path, "kept")
    assert collect(stores, unused_days=1).collected == ()
    assert is_whole(stores, kept.digest)


def test_version_that_is_committed_after_one_with_a_higher_number_stays(stores: Stores, tmp_path: Path) -> None:
    if stores.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    write_adapter(tmp_path / "adapter")
    description = publishing.Description(name="early", kind="import", base=registry.describe_base("early"))
    create_version = publishing.publish(tmp_path / "adapter", stores, description, {})
    with ThreadPoolExecutor(1) as thread:
        with stores.database.write() as session:
            early = create_version(session, bases.add(session, description.base))
            add_version(stores, tmp_path, "late")
            collecting = thread.submit(collect, stores, unused_days=0)
            concurrent.futures.wait([collecting], timeout=1.0)  # it waits for the commit
        collecting.result()
    assert is_whole(stores, early.digest)


def test_converted_base_stays_although_the_home_has_another_path(stores: Stores, tmp_path: Path) -> None:
    folder = stores.bases / "gguf-0123"
    folder.mkdir(parents=True)
    (tmp_path / "earlier").symlink_to(stores.bases)
    with stores.database.write() as session:
        bases.add(session, registry.describe_base("tiny").evolve(path=str(tmp_path / "earlier" / folder.name)))
    assert collect(stores, unused_days=0).collected == ()
    assert folder.is_dir()


def test_leftovers_of_jobs_and_processes_go(stores: Stores, tmp_path: Path) -> None:
    running = registry.claimed(stores.database, job_id=registry.submit(stores.database).id)
    ended = registry.submit(stores.database)
    registry.cancel(stores.database, ended)
    step = tmp_path / "step-00000001"
    step.mkdir()
    (step / "file").write_bytes(b"state")
    for job in (running, ended):
        checkpoints.put(stores.artifacts, job.id, 1, step, archive=tmp_path / "archive")
        folder = WorkFolders(stores.settings.work).begin(job.id, 1)
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_bytes(b"x" * 100)
    killed = stores.settings.home / ".publish.0123abcd.part"
    killed.mkdir()
    gguf = stores.bases / "gguf-0123"
    gguf.mkdir(parents=True)
    (gguf / "model.safetensors").write_bytes(b"x" * 1000)
    report = collect(stores, unused_days=0)
    assert counts(report) == {
        "checkpoints and outputs of ended jobs": 1,
        "converted bases": 1,
        "folders of ended jobs": 1,
        "folders of killed processes": 1,
    }
    assert report.bytes > 1100
    assert stores.artifacts.list_named(checkpoints.FOLDER) == [f"{running.id}-1"]
    assert WorkFolders(stores.settings.work).jobs() == [running.id]


def test_unfinished_uploads_go(stores: Stores, store_url: str | None) -> None:
    if store_url is None:
        files = [stores.settings.home / "artifacts" / "tmp" / name for name in ("old", "new")]
        for file, days in zip(files, (0.9, 1.1), strict=True):
            file.write_bytes(b"x" * 10)
            os.utime(file, (time.time() - days * DAY,) * 2)
        previewed = collect(stores, unused_days=0, dry_run=True)
        assert [file.exists() for file in files] == [True, True]
        report = collect(stores, unused_days=0)
        assert counts(report) == counts(previewed) == {"unfinished uploads": 1}
        assert report.bytes == previewed.bytes == 10
        assert [file.exists() for file in files] == [True, False], "a writer may need a day"
        return
    client, bucket = boto3.client("s3"), store_url.split("/")[2]
    client.create_multipart_upload(Bucket=bucket, Key="artifacts/blobs/00/00")  # this server says that it is years old
    client.create_multipart_upload(Bucket=bucket, Key="other/00")
    assert counts(collect(stores, dry_run=True)) == {"unfinished uploads": 1}
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2
    assert counts(collect(stores)) == {"unfinished uploads": 1}
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert left["Key"] == "other/00"


def test_one_collection_a_day(stores: Stores) -> None:
    with stores.database.write() as session:
        assert deployment.begin_collection(session, seconds=DAY)
    with stores.database.write() as session:
        assert not deployment.begin_collection(session, seconds=DAY)
        assert deployment.begin_collection(session, seconds=0.0)


def test_collection_is_due_after_a_clock_that_jumped_back(stores: Stores) -> None:
    with stores.database.write() as session:
        session.execute(sa.update(tables.Deployment).values(collected_at=later(10 * DAY)))
        assert deployment.begin_collection(session, seconds=DAY)


def test_reproduction_of_a_version_is_possible_after_a_collection(
    tmp_path: Path, valkey_url: str, tiny_folder: Path
) -> None:
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as hub:
        pairs = [(f"Which is owl {number}?", "A bird.") for number in range(20)]
        job = hub.train(pairs, adapter="owls", base=tiny_folder, validation=0.2)
        spec = job.spec
        assert isinstance(spec, TrainSpec)
        job.cancel()
        hub.collect(unused_days=0)
        assert hub.jobs.get(job.id).retry().spec == spec


def interrupt_purge(stores: Stores, digest: str, monkeypatch: pytest.MonkeyPatch, *, age: float = 0.0) -> None:
    """Purge a data set until its text is to be removed."""

    def interrupt(*_: Any) -> Any:
        raise errors.Unavailable("could not reach the store")

    with monkeypatch.context() as patch:
        patch.setattr(purging, "sweep_store", interrupt)
        with pytest.raises(errors.Unavailable):
            full_hub.purge_dataset(digest, stores)
    with stores.database.write() as session:
        session.execute(sa.update(tables.Dataset).values(purged_at=later(-age)).where(tables.Dataset.digest == digest))


def find_live(stores: Stores) -> set[str]:
    with stores.database.read() as session:
        return set(datasets.list_live(session))


def test_purged_data_that_is_added_again_during_a_collection_stays(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add_data(stores, ROWS, of_jobs=False, name="birds")
    interrupt_purge(stores, digest, monkeypatch)
    scan = Unreferenced.scan
    added: list[str] = []

    def add_behind(unreferenced: Unreferenced, kind: Any) -> Iterator[Any]:
        for found in list(scan(unreferenced, kind)):
            if found and not added:
                added.append(add_data(stores, ROWS, of_jobs=False, name="birds"))
            yield found

    monkeypatch.setattr(Unreferenced, "scan", add_behind)
    collect(stores)
    assert added == [digest]
    assert find_live(stores) == {digest}
    assert stores.artifacts.has(digest)


@pytest.mark.parametrize("text", [ROWS, ROWS.partition(b"\n")[0] + b"\n"])
def test_purged_rows_that_are_stored_again_can_be_registered_after_a_collection(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    digest = add_data(stores, ROWS, of_jobs=False)
    interrupt_purge(stores, digest, monkeypatch, age=10.0)
    stored = stores.artifacts.put(text)
    collect(stores)
    assert stores.artifacts.has(stored)


def test_purged_rows_that_are_stored_again_while_their_purge_is_finished_stay(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add_data(stores, ROWS, of_jobs=False)
    interrupt_purge(stores, digest, monkeypatch)

    def store_behind(*arguments: Any) -> int:
        time.sleep(1.1)  # S3 has whole seconds
        stores.artifacts.put(ROWS)
        return remove_texts(*arguments)

    monkeypatch.setattr(purging, "remove_texts", store_behind)
    collect(stores)
    assert stores.artifacts.has(digest)


def test_collection_purges_no_other_data_that_users_added(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """An addition that died left its file behind, after the purge had been finished."""
    digest = add_data(stores, ROWS, of_jobs=False)
    full_hub.purge_dataset(digest, stores)
    part = add_data(stores, ROWS.partition(b"\n")[0] + b"\n", of_jobs=False)
    stores.artifacts.put(ROWS)
    collect(stores, unused_days=0)
    assert find_live(stores) == {part}
    assert not stores.artifacts.has(digest)


def test_purge_leaves_the_text_of_another_one_that_is_not_finished(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that text tells what else is to be removed. Both data sets have one of the rows."""
    first, _, rest = ROWS.partition(b"\n")
    job = registry.claimed(stores.database, job_id=registry.submit(stores.database).id)
    with stores.database.write() as session:
        attempts.fail(session, job, "Seeds and many buds. 2")
    other = add_data(stores, rest, of_jobs=False, name="other")
    interrupt_purge(stores, other, monkeypatch)
    full_hub.purge_dataset(add_data(stores, first + b"\n" + rest.partition(b"\n")[0] + b"\n", of_jobs=False), stores)
    assert stores.artifacts.has(other)
    collect(stores)
    assert not stores.artifacts.has(other)
    assert registry.get(stores.database, job).reason == "(purged)"


@pytest.mark.parametrize("error", [errors.Unavailable("disk is full"), OSError(28, "No space left on device")])
def test_purge_that_cannot_be_finished_keeps_its_text_and_stops_no_collection(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    named = add_data(stores, ROWS, of_jobs=False, name="birds")
    other = add_data(stores, ROWS.replace(b"Seeds", b"Buds"), of_jobs=False, name="owls")
    for digest in (named, other):
        interrupt_purge(stores, digest, monkeypatch)
    orphan = stores.artifacts.put(b"of a writer that died")
    killed = stores.settings.home / ".publish.0123abcd.part"
    killed.mkdir()

    def fail_for_birds(database: Any, finder: Any) -> int:
        if finder(["Seeds and many buds. 1"])[0]:
            raise error
        return remove_texts(database, finder)

    with monkeypatch.context() as patch:
        patch.setattr(purging, "remove_texts", fail_for_birds)
        told = r"could not finish the purge of data set birds: .*(full|No space left).* \(purge it again\)"
        with pytest.raises(errors.Unavailable, match=told):
            collect(stores, unused_days=0)
    assert [stores.artifacts.has(digest) for digest in (named, other, orphan)] == [True, False, False]
    assert not killed.exists()
    collect(stores)
    assert not stores.artifacts.has(named)


def test_collection_erases_what_a_purge_could_not(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    if not stores.database.is_sqlite:
        pytest.skip("PostgreSQL erases by itself")

    def refuse(*_: Any) -> bool:
        raise errors.Unavailable("disk is full")

    job = registry.claimed(stores.database, job_id=registry.submit(stores.database).id)
    with stores.database.write() as session:
        attempts.fail(session, job, "Seeds and many buds. 1")
    digest = add_data(stores, ROWS, of_jobs=False)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "erase_deleted", refuse)
        with pytest.raises(errors.Unavailable):
            full_hub.purge_dataset(digest, stores)
    assert stores.database.is_unclean()
    collect(stores, dry_run=True)
    assert stores.database.is_unclean()
    collect(stores)
    assert not stores.database.is_unclean()


def test_collection_lists_all_files_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    full_hub.purge_dataset(add_data(stores, ROWS, of_jobs=False), stores)
    scanned: list[str] = []
    scan = Unreferenced.scan

    def count(unreferenced: Unreferenced, kind: Any) -> Iterator[Any]:
        scanned.append(kind)
        return scan(unreferenced, kind)

    monkeypatch.setattr(Unreferenced, "scan", count)
    collect(stores)
    assert scanned == ["trees", "blobs"]


@pytest.mark.parametrize("is_of_home", [True, False])
def test_collection_and_purge_reserve_space_again(tmp_path: Path, is_of_home: bool) -> None:
    url = None if is_of_home else f"sqlite:///{tmp_path / 'elsewhere.db'}"
    Database(f"sqlite:///{tmp_path / 'elsewhere.db'}").upgrade()
    stores = open_stores(settings.load(home=tmp_path / "home", database_url=url))
    reserve = stores.settings.home / "reserve"
    assert reserve.exists() == is_of_home
    full_hub.purge_dataset(add_data(stores, ROWS, of_jobs=False), stores)
    assert reserve.exists() == is_of_home
    collect(stores)
    assert reserve.exists() == is_of_home
    stores.database.close()
