"""Purges of data sets: no byte of a row is left in the home, the store and the database, and nothing else is lost."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy as sa
from support import registry
from support.buckets import make_bucket

from finch_hub import Hub, errors, settings
from finch_hub.registry import attempts, datasets, evaluations, jobs, sqlite, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.jobs import Job, TrainSpec
from finch_hub.storage import purging
from finch_hub.storage.store_sweep import sweep_store
from finch_hub.workers.runs import inputs
from finch_hub.workers.supervision.work_folders import WorkFolders

NUM_ROWS = 40
PAIRS = [(f'What does finch "{n:03d}é" eat?', f"Canary {n:03d} eats\nseeds and buds.") for n in range(NUM_ROWS)]
TEXTS = [text for pair in PAIRS for text in pair]


@pytest.fixture
def hub(database_url: str, store_url: str | None, valkey_url: str, tmp_path: Path) -> Iterator[Hub]:
    places = {"database_url": database_url, "broker_url": valkey_url, "artifacts_url": store_url}
    given = {name: value for name, value in places.items() if value is not None}
    with Hub(settings.load(home=tmp_path / "home", allow_insecure=True, **given)) as made:
        yield made


@pytest.fixture
def home_hub(valkey_url: str, tmp_path: Path) -> Iterator[Hub]:
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url)) as made:
        yield made


def read_all(hub: Hub) -> dict[str, bytes]:
    """Return the bytes of every file of the home and the store, and of every row of a server."""
    found = {str(file): file.read_bytes() for file in hub.settings.home.rglob("*") if file.is_file()}
    if hub.settings.artifacts_url is not None:
        bucket = boto3.resource("s3").Bucket(hub.settings.artifacts_url.get_secret_value().split("/")[2])
        found |= {item.key: item.get()["Body"].read() for item in bucket.objects.all()}
    database = hub._stores.database
    if not database.is_sqlite:
        with database.read() as session:
            for table in tables.Table.metadata.sorted_tables:
                rows = [dict(row._mapping) for row in session.execute(sa.select(table))]
                found[table.name] = json.dumps(rows, default=str, ensure_ascii=False).encode()
    else:
        file = Path(str(database.url.database))
        found |= {str(path): path.read_bytes() for path in file.parent.glob(f"{file.name}*")}
    return found


def find_texts(files: dict[str, bytes], texts: list[str] = TEXTS) -> set[str]:
    """Return where texts are, as they are or as JSON or Python write them."""
    forms = [
        form.encode()
        for text in texts
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
    ]
    return {name for name, data in files.items() if any(form in data for form in forms)}


def train(hub: Hub, data: Any, base: Path, **options: Any) -> Job:
    return hub.jobs.get(hub.train(data, adapter="birds", base=base, **options).id).refresh()


def end(hub: Hub, job_id: str) -> None:
    hub.jobs.get(job_id).cancel()


def write_about(hub: Hub, database: Database) -> None:
    """Let a job tell of rows wherever it can: in events, its reason, its report, an attempt, figures and a card."""
    noted = Evidence(kind="train", notes=(f"left out: {PAIRS[11][0]}", "kept")).to_document()
    metrics = {"samples": [PAIRS[1][1]]}
    version = registry.add_version(database, "birds", metrics=metrics, card=f"Says: {PAIRS[2][1]}", evidence=noted)
    quoted = json.dumps({"row": PAIRS[3][0]})
    job = registry.claimed(database, job_id=registry.submit(database).id)
    with database.write() as session:
        events = [
            NewEvent(type="message", message=f"left out {PAIRS[4][0]!r}, see {quoted}"),
            NewEvent(type="metrics", data={"loss": 0.5, "samples": [{"answer": PAIRS[5][1]}], PAIRS[6][0]: 1}),
        ]
        attempts.append_events(session, job, events)
    with database.write() as session:
        attempts.fail(session, job, f"the plugin said: {PAIRS[7][0]}")
        evaluations.add(
            session, base_id=version.base.id, dataset=registry.digest("other"), evaluator="x",
            metrics={"worst": PAIRS[8][1], "loss": 1.0}, adapter=version.reference,
        )  # fmt: skip
    done = registry.claimed(database, job_id=registry.submit(database).id)
    registry.succeed(database, done, report={"problems": [f"line 9: {PAIRS[9][0]}"], "rows": 40})


def test_purge_leaves_no_byte_of_any_row(hub: Hub, tiny_folder: Path) -> None:
    stored = hub.datasets.add(PAIRS, name="birds-data")
    first = hub.train("birds-data", adapter="birds", base=tiny_folder, validation=0.2)
    second = hub.train(PAIRS, adapter="others", base=tiny_folder, validation=0.5, seed=3)
    with pytest.raises(errors.Conflict, match=f"jobs? .*{first.id}.* needs? it"):
        hub.datasets.purge("birds-data")
    for job in (first, second):
        end(hub, job.id)
    database = hub._stores.database
    write_about(hub, database)
    orphan = hub._stores.artifacts.put(hub._stores.artifacts.get(stored.digest)[:-400].rpartition(b"\n")[0] + b"\n")
    log = hub.settings.home / "logs" / "worker.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"ts=1 msg=fine\nts=2 error={json.dumps(PAIRS[10][0])}\nts=3 msg=fine\n")
    folder = WorkFolders(hub.settings.work).begin(first.id, 1)
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(json.dumps(PAIRS))
    assert find_texts(read_all(hub))

    purged = hub.datasets.purge("birds-data")

    assert find_texts(read_all(hub)) == set()
    assert len(purged.parts) == 4
    assert purged.also_in == ()
    assert purged.changed_records >= 9
    assert hub.adapters.evidence("birds").notes == ("(purged)", "kept")
    assert purged.is_erased == database.is_sqlite
    assert purged.keeps_versions is False
    assert not hub._stores.artifacts.has(orphan)
    assert log.read_text().splitlines()[::2] == ["ts=1 msg=fine", "ts=3 msg=fine"]
    (event,) = [event for job in hub.jobs.find() for event in hub.events(job.id) if event.type == "metrics"]
    assert event.data == {"loss": 0.5, "samples": [{"answer": "(purged)"}], "(purged)": 1}
    for digest in (stored.digest, *purged.parts):
        assert hub.datasets.get(digest).purged_at is not None


def test_purge_leaves_no_name_and_no_word_in_the_index(hub: Hub) -> None:
    stored = hub.datasets.add([(f"Where is Zanzibarium {n}?", f"Xylographique {n}.") for n in range(9)], name="quokkas")
    database = hub._stores.database
    lineage = values.Lineage(train_digest=stored.digest)
    for number in range(3):
        registry.add_version(database, "birds", lineage=lineage, card=f"Says: Where is Zanzibarium {number}?")
    assert len(hub.adapters.find("quokkas zanzibarium").versions) == 3

    assert hub.datasets.purge("quokkas").versions == ("birds/1", "birds/2", "birds/3")

    for word in ("quokkas", "zanzibarium"):
        assert hub.adapters.find(word).versions == ()
    with database.write() as session:
        session.execute(sa.delete(tables.AuditRow))  # who added and purged it; the index is meant here
    if database.is_sqlite:
        file = Path(str(database.url.database))
        data = b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*")).lower()
        assert b"zanzibarium" not in data
        copy = file.with_name(f"{file.name}.copy")
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        assert copy.read_bytes().count(b"quokkas") == 2  # the row of the data set keeps its name, which has an index
    else:
        with database.read() as session:
            words = session.scalars(sa.text("SELECT CAST(words AS TEXT) FROM searched_versions")).all()
        assert "quokkas" not in str(words)


def test_purge_finds_rows_that_got_a_system_prompt(home_hub: Hub, tiny_folder: Path) -> None:
    home_hub.datasets.add(PAIRS, name="birds-data")
    sung = home_hub.datasets.add("birds-data", name="sung", system="Sing to me, please.")
    purged = home_hub.datasets.purge("birds-data")
    assert [(other.dataset, other.rows) for other in purged.also_in] == [("sung", NUM_ROWS)]
    assert home_hub._stores.artifacts.has(sung.digest), "what a user added stays"
    home_hub.datasets.purge("sung")
    assert find_texts(read_all(home_hub)) == set()


def test_bucket_that_keeps_versions_is_told(valkey_url: str, tmp_path: Path) -> None:
    with make_bucket() as url:
        loaded = settings.load(home=tmp_path / "home", broker_url=valkey_url, artifacts_url=url)
        client, bucket = boto3.client("s3"), url.split("/")[2]
        told = []
        for state in (None, "Enabled", "Suspended"):
            if state is not None:
                client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state})
            with Hub(loaded) as hub:
                hub.datasets.add(PAIRS, name="birds-data")
                told.append(hub.datasets.purge("birds-data").keeps_versions)
            kept = client.list_object_versions(Bucket=bucket, Prefix="artifacts/blobs/").get("Versions", [])
            assert bool(kept) == (state == "Enabled"), "this server removes all of them if it is suspended"
        assert told == [False, True, True]


def test_data_of_others_stays(home_hub: Hub, tiny_folder: Path) -> None:
    other = [(f"Which is owl number {n:03d}?", "A bird of the night, which hunts.") for n in range(NUM_ROWS)]
    home_hub.datasets.add(PAIRS, name="birds-data")
    mixed = home_hub.datasets.add([*PAIRS[:3], *other], name="mixed")
    job = home_hub.train(other, adapter="owls", base=tiny_folder)
    assert isinstance(job.spec, TrainSpec)
    purged = home_hub.datasets.purge("birds-data")
    assert purged.parts == ()
    assert [(found.dataset, found.rows) for found in purged.also_in] == [("mixed", 3)]
    for digest in (mixed.digest, job.spec.train, job.spec.validation):
        assert digest is not None
        assert home_hub._stores.artifacts.has(digest)
        assert home_hub.datasets.get(digest).purged_at is None


def test_purge_waits_for_a_submission_that_read_the_data(hub: Hub, tiny_folder: Path, monkeypatch: Any) -> None:
    """A training is submitted after the purge has compared all data: the purge sees its parts, and the job."""
    hub.datasets.add(PAIRS, name="birds-data")
    submitted: list[Any] = []
    find_kin = purging._find_kin

    def submit_behind(*arguments: Any) -> None:
        find_kin(*arguments)
        if not submitted:
            submitted.append(hub.train("birds-data", adapter="birds", base=tiny_folder, validation=0.2))

    monkeypatch.setattr(purging, "_find_kin", submit_behind)
    with pytest.raises(errors.Conflict, match=r"jobs? .*needs? it"):
        hub.datasets.purge("birds-data")
    spec = submitted[0].spec
    assert isinstance(spec, TrainSpec)
    for digest in (spec.train, spec.validation):
        assert hub._stores.artifacts.has(str(digest))
    end(hub, submitted[0].id)
    assert len(hub.datasets.purge("birds-data").parts) == 2


def test_submission_that_read_the_data_before_a_purge_is_refused(hub: Hub, tiny_folder: Path, monkeypatch: Any) -> None:
    hub.datasets.add(PAIRS, name="birds-data")
    dispatcher, stores = hub._dispatcher, hub._stores
    assert dispatcher is not None
    purged: list[bool] = []
    write = stores.database.write

    @contextlib.contextmanager
    def purge_before() -> Iterator[Any]:
        if not purged:
            purged.append(True)
            hub.datasets.purge("birds-data")
        with write() as session:
            yield session

    monkeypatch.setattr(stores.database, "write", purge_before)
    with pytest.raises(errors.Conflict, match=r"data set birds-data was purged \(add its data again\)"):
        hub.train("birds-data", adapter="birds", base=tiny_folder, validation=0.2)
    monkeypatch.undo()
    assert hub.jobs.find() == []
    hub.collect(unused_days=0)
    assert find_texts(read_all(hub)) == set()


def test_purges_beside_trainings_on_the_data_leave_all_or_nothing(hub: Hub, tiny_folder: Path) -> None:
    hub.datasets.add(PAIRS, name="birds-data")

    def train_some(seed: int) -> None:
        for number in range(4):
            with contextlib.suppress(errors.Conflict):
                job = hub.train(
                    "birds-data", adapter="birds", base=tiny_folder, validation=0.3, seed=10 * seed + number
                )
                assert isinstance(job.spec, TrainSpec)
                for digest in (job.spec.train, job.spec.validation):
                    assert hub._stores.artifacts.has(str(digest)), "a job has its data"
                job.cancel()

    def purge_some(_: int) -> None:
        for _ in range(4):
            with contextlib.suppress(errors.Conflict):
                hub.datasets.purge("birds-data")

    with ThreadPoolExecutor(3) as threads:
        for done in (threads.map(train_some, range(2)), threads.map(purge_some, range(1))):
            list(done)
    hub.datasets.add(PAIRS, name="birds-data")
    hub.datasets.purge("birds-data")
    hub.collect(unused_days=0)
    assert find_texts(read_all(hub)) == set()


def test_data_that_a_running_job_fetched_is_needed_until_it_ends(home_hub: Hub, tmp_path: Path) -> None:
    """A composition reads the held-out rows of its parents, if they are there."""
    stored = home_hub.datasets.add(PAIRS, name="held-out")
    stores = home_hub._stores
    version = registry.add_version(
        stores.database, lineage=registry.made_from().evolve(validation_digest=stored.digest)
    )
    job = registry.submit(stores.database, spec=registry.merge_spec(version.reference))
    assert inputs.fetch_validation(version, tmp_path / "fetched", stores, job=job) is not None
    with pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
        home_hub.datasets.purge("held-out")
    end(home_hub, job.id)
    home_hub.datasets.purge("held-out")
    with stores.database.write() as session:  # it can do without them
        again = jobs.retry(session, job.id)
    assert inputs.fetch_validation(version, tmp_path / "again", stores, job=again) is None
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("step", ["sweep_store", "remove_texts", "remove_from_logs", "_remove_unregistered"])
def test_purge_that_was_interrupted_is_finished_by_the_next(
    home_hub: Hub, tiny_folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_hub.datasets.add(PAIRS, name="birds-data")
    end(home_hub, home_hub.train("birds-data", adapter="birds", base=tiny_folder, validation=0.2).id)
    write_about(home_hub, home_hub._stores.database)
    log = home_hub.settings.home / "logs" / "worker.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"ts=2 error={json.dumps(PAIRS[10][0])}\n")

    def interrupt(*_: Any) -> Any:
        raise errors.Unavailable("could not reach the database")

    with monkeypatch.context() as patch:
        patch.setattr(purging, step, interrupt)
        with pytest.raises(errors.Unavailable):
            home_hub.datasets.purge("birds-data")
    home_hub.datasets.purge("birds-data")
    assert find_texts(read_all(home_hub)) == set()


def test_purge_without_space_to_rewrite_the_database_is_finished_by_the_next(
    home_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    home_hub.datasets.add(PAIRS, name="birds-data")
    write_about(home_hub, home_hub._stores.database)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "erase_deleted", refuse)
        with pytest.raises(errors.Unavailable, match=r"not finish the purge of data set birds-data.*disk is full"):
            home_hub.datasets.purge("birds-data")
    delete_carelessly(home_hub.settings.home / "finch.db")
    assert home_hub.datasets.purge("birds-data").is_erased
    assert find_texts(read_all(home_hub)) == set()


def test_collection_finishes_a_purge_that_was_interrupted(home_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise errors.Unavailable("could not reach the store")

    home_hub.datasets.add(PAIRS, name="birds-data")
    log = home_hub.settings.home / "logs" / "worker.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"ts=2 error={json.dumps(PAIRS[10][0])}\n")
    with monkeypatch.context() as patch:
        patch.setattr(purging, "sweep_store", interrupt)
        with pytest.raises(errors.Unavailable, match="could not finish the purge of data set birds-data"):
            home_hub.datasets.purge("birds-data")
    home_hub.collect(dry_run=True)
    assert find_texts(read_all(home_hub))
    home_hub.collect()
    assert find_texts(read_all(home_hub)) == set()


def test_part_that_a_collection_removes_meanwhile_is_purged(
    home_hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = home_hub._stores.database
    home_hub.datasets.add(PAIRS, name="birds-data")
    job = home_hub.train("birds-data", adapter="birds", base=tiny_folder, validation=0.2)
    end(home_hub, job.id)
    with database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == job.id))
    sweep = sweep_store

    def collect_before(*arguments: Any) -> list[str]:
        with database.write() as session:
            unnamed = list(session.scalars(sa.select(tables.Dataset.digest).where(tables.Dataset.name.is_(None))))
            assert datasets.remove_unused(session, unnamed)
        return sweep(*arguments)

    monkeypatch.setattr(purging, "sweep_store", collect_before)
    home_hub.datasets.purge("birds-data")
    assert find_texts(read_all(home_hub)) == set()


def delete_carelessly(file: Path) -> None:
    """Write the texts to a database and delete them, so that their bytes stay in its file."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE old (text TEXT)")
        connection.executemany("INSERT INTO old VALUES (?)", [(text,) for text in TEXTS])
        connection.execute("DROP TABLE old")
        connection.commit()
    assert find_texts({"file": file.read_bytes()})


def test_purge_overwrites_what_an_earlier_version_deleted_from_the_file(home_hub: Hub) -> None:
    home_hub.datasets.add(PAIRS, name="birds-data")
    file = home_hub.settings.home / "finch.db"
    home_hub._stores.database.close()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 0")
    delete_carelessly(file)
    assert home_hub.datasets.purge("birds-data").is_erased
    assert find_texts(read_all(home_hub)) == set()


def test_log_that_another_process_reads_is_told(home_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    home_hub.datasets.add(PAIRS, name="birds-data")
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_SECONDS", 0.1)
    reader = sqlite3.connect(home_hub.settings.home / "finch.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM datasets").fetchone()
    assert not home_hub.datasets.purge("birds-data").is_erased
    reader.close()
    assert home_hub.datasets.purge("birds-data").is_erased, "a second purge finishes the first"


def test_names_are_unique_under_a_race(database: Database) -> None:
    def add(number: int) -> bool:
        try:
            with database.write() as session:
                datasets.add(session, digest=f"{number:064d}", format="messages", examples=1, name="birds")
        except errors.Conflict as error:
            assert "data set birds" in str(error)  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(add, range(8))) == 1


def test_name_that_was_given_again_is_not_restored(database: Database) -> None:
    first, second = "1" * 64, "2" * 64
    with database.write() as session:
        datasets.add(session, digest=first, format="messages", examples=1, name="birds")
        datasets.purge(session, "birds")
        datasets.add(session, digest=second, format="messages", examples=1, name="birds")
        again = datasets.add(session, digest=first, format="messages", examples=1, of_jobs=True)
    assert (again.name, again.of_jobs, again.purged_at) == (None, True, None)
    with database.read() as session:
        assert datasets.get(session, "birds").digest == second
