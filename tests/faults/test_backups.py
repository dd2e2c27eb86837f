"""Backups of a hub in which workers train and data is purged, and backups and restorations that are killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import full_hub, services
from support.fleet import Fleet

from finch_hub import Hub, errors, settings
from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import artifact_references, datasets, row_copies
from finch_hub.specs.backups import BackupReport
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, JobState, TrainSpec
from finch_hub.specs.training import TrainingConfig
from finch_hub.storage.stores import Stores, open_stores

EXAMPLES = tuple(Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(20))
# Kills itself when it has told how far some work is. The numbers make each of these moments come.
KILLED = """
import os, signal, sys
from pathlib import Path
from finch_hub import Hub, progress

progress._LEAST_SECONDS = progress._SHARE = 0.0
action, folder, work, done = sys.argv[1:]

def die(advance):
    if advance.work == work and advance.done >= int(done):
        os.kill(os.getpid(), signal.SIGKILL)

with Hub() as hub, progress.listen(die):
    getattr(hub, action)(folder)
"""


def assert_made(stores: Stores) -> None:
    """Assert that each job that has succeeded made one version, and that no other job made any."""
    rows = full_hub.read_all(stores.database)
    succeeded = [job["id"] for job in rows["jobs"] if job["state"] == "succeeded"]
    assert sorted(row["job_id"] for row in rows["adapter_versions"]) == sorted(succeeded)


def new_hub(folder: Path, database_url: str, broker_url: str) -> Hub:
    """Return a hub of its own, which has nothing yet, and starts no worker by itself."""
    folder.mkdir(exist_ok=True)
    home = folder / "home"
    return Hub(settings.load(home=home, database_url=database_url, broker_url=broker_url, allow_insecure=True))


def assert_consistent(stores: Stores) -> None:
    """Assert that each version's files and each text are there, and that jobs have all their events."""
    with stores.database.read() as session:
        references = artifact_references.find_references(session)
    for digest in references.trees:
        stores.artifacts.fetch_tree(digest)
    for digest in references.texts:
        stores.artifacts.measure(digest)
    rows = full_hub.read_all(stores.database)
    for job in rows["jobs"]:
        numbers = [event["seq"] for event in rows["events"] if event["job_id"] == job["id"]]
        assert numbers == list(range(1, job["last_seq"] + 1))
        assert job["state"] != "running"
    for adapter in rows["adapters"]:
        numbers = [row["number"] for row in rows["adapter_versions"] if row["adapter_id"] == adapter["id"]]
        assert sorted(numbers) == list(range(1, adapter["versions_made"] + 1))


@pytest.mark.slow
def test_backups_of_a_busy_hub_are_consistent(workers: Fleet, tiny_folder: Path, tmp_path: Path) -> None:
    databases = services.Databases(tmp_path)
    training = TrainingConfig(max_steps=2, batch_size=1, dtype="float32", threads=1)
    text = dump_examples(EXAMPLES)
    workers.start()
    stores = open_stores(workers.settings)
    digest = stores.artifacts.put(text)
    with stores.database.write() as session:
        datasets.add(session, digest=digest, format="messages", examples=len(EXAMPLES), size=len(text))
    spec = TrainSpec(adapter="finches", base=BaseModelSource(source=str(tiny_folder)), train=digest, training=training)
    is_over = threading.Event()
    failures: list[BaseException] = []

    def add_and_purge() -> None:
        try:
            with Hub(workers.settings) as hub:
                for number in itertools.count():
                    hub.datasets.add([(f"question {number}", "answer")], name=f"data-{number}")
                    if number:
                        hub.datasets.purge(f"data-{number - 1}")
                    if is_over.is_set():
                        return
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=add_and_purge)
    thread.start()
    jobs = [workers.submit(spec) for _ in range(4)]
    reports: list[BackupReport] = []
    try:
        for job in jobs:
            workers.wait(job, JobState.RUNNING, JobState.SUCCEEDED)
            with Hub(workers.settings) as hub:
                reports.append(hub.back_up(tmp_path / f"backup-{len(reports)}"))
            workers.wait(job)
    finally:
        is_over.set()
        thread.join()
    assert failures == []
    workers.check(*jobs)
    for report in reports:
        assert report.backup.is_complete, report.problems
        name = f"restored-{Path(report.folder).name}"
        with new_hub(tmp_path / name, databases.new(), workers.broker.url) as hub:
            hub.restore(report.folder)
            assert_consistent(hub._stores)
            assert_made(hub._stores)
    # A worker of the restored hub ends the jobs of the first backup.
    with new_hub(tmp_path / "again", databases.new(), workers.broker.url) as hub:
        hub.restore(reports[0].folder)
        home, url = str(hub.settings.home), hub.settings.database
        workers.start("two", finch_home=home, finch_database_url=url, finch_artifacts_url="")
        for job in jobs[: len(hub.jobs.find())]:
            assert hub.jobs.get(job).wait(timeout=120).state is JobState.SUCCEEDED
        assert_made(hub._stores)
        assert_consistent(hub._stores)
    stores.database.close()


@pytest.fixture
def source(tmp_path: Path) -> Stores:
    """A hub with rows in every table."""
    (tmp_path / "source").mkdir()
    stores = full_hub.open_hub(tmp_path / "source", None)
    full_hub.fill(stores, tmp_path / "source")
    return stores


def kill(home: Path, action: str, folder: Path, work: str, done: int, **variables: str) -> None:
    """Run an action in a process that is killed when a number of the parts of some work are done."""
    environment = {**os.environ, "FINCH_HOME": str(home), **variables}
    command = [sys.executable, "-c", KILLED, action, str(folder), work, str(done)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize(("work", "done"), [("copying rows", 5), ("copying artifacts", 1), ("copying artifacts", 4)])
def test_killed_backup_leaves_nothing_that_looks_finished(source: Stores, tmp_path: Path, work: str, done: int) -> None:
    kill(source.settings.home, "back_up", tmp_path / "backup", work, done)
    assert not (tmp_path / "backup").exists()
    assert len(list(tmp_path.glob(".backup.*.part"))) == 1
    with Hub(source.settings) as hub:
        assert hub.back_up(tmp_path / "backup").backup.is_complete
    assert list(tmp_path.glob(".backup.*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "done"),
    [("checking rows", 5), ("checking artifacts", 2), ("storing artifacts", 1), ("storing artifacts", 5),
     ("storing rows", 20)],
)  # fmt: skip
def test_killed_restoration_is_repeated(
    source: Stores, tmp_path: Path, database_url: str, work: str, done: int
) -> None:
    with Hub(source.settings) as hub:
        hub.back_up(tmp_path / "backup")
    variables = {"FINCH_DATABASE_URL": database_url, "FINCH_ALLOW_INSECURE": "1"}
    kill(tmp_path / "new", "restore", tmp_path / "backup", work, done, **variables)
    with Hub(settings.load(home=tmp_path / "new", database_url=database_url, allow_insecure=True)) as hub:
        with hub._stores.database.read() as session:
            assert row_copies.find_filled(session) == ["deployment"]
        hub.restore(tmp_path / "backup")
        assert_consistent(hub._stores)
        with pytest.raises(errors.Conflict):
            hub.restore(tmp_path / "backup")
    assert list((tmp_path / "new" / "cache").glob(".restore*")) == []
