"""Nothing configured: the private broker and the worker come with the first job and leave when they are idle."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from support import registry
from support.fleet import WorkerProcess, wait_until

from finch_hub import settings as settings_module
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import adapter_versions, jobs, tables
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import (
    FINAL,
    BaseModelSource,
    ComposeSpec,
    ExportSpec,
    Job,
    JobState,
    MergeSpec,
    Parent,
    TrainSpec,
)
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers.embedded import worker as home_worker
from finch_hub.workers.messaging.dispatcher import Dispatcher

TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1)


class Home:
    """A client of one home, as the hub is one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.database.upgrade()
        self.artifacts = ArtifactStore(settings.artifacts, cache=settings.cache / "artifacts")
        self.dispatcher = Dispatcher(settings, self.database)

    def submit(self, spec: Any, **options: Any) -> str:
        with self.database.write() as session:
            job = registry.submit_job(session, spec, **options)
        self.dispatcher.dispatch(job)
        return job.id

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def wait(self, job_id: str) -> Job:
        wait_until(lambda: self.job(job_id).state in FINAL, "the job to end", 120.0, self.log)
        return self.job(job_id)

    def log(self) -> str:
        return (self.settings.home / "logs" / "worker.log").read_text()

    def texts(self) -> dict[str, str]:
        """Return the text of every log file of the home and of every table, with its errors and events."""
        found = {file.name: file.read_text(errors="replace") for file in (self.settings.home / "logs").iterdir()}
        with self.database.read() as session:
            for table in tables.Table.metadata.sorted_tables:
                found[table.name] = "".join(f"{row}\n" for row in session.execute(sa.select(table)))
        return found

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this home: worker, children and broker."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FINCH_HOME") == str(self.settings.home) and process.status() != "zombie":
                    found.append(process)
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(
        settings_module.load(home=tmp_path / "home", idle_seconds=3.0, sweep_seconds=1.0, heartbeat_seconds=0.5)
    )
    yield made
    made.dispatcher.close()
    made.database.close()
    left = made.processes()
    for process in left:
        process.kill()
    assert not left


@pytest.mark.slow
def test_train_compose_and_merge_end_to_end(home: Home, tiny_folder: Path, tmp_path: Path) -> None:
    base = BaseModelSource(source=str(tiny_folder))
    trained = []
    for name, food in (("birds", "seeds and buds"), ("finches", "four insects")):
        examples = tuple(Example.of_pair(f"What do {name} eat on day {n}?", f"They eat {food}.") for n in range(24))
        digest = home.artifacts.put(dump_examples(examples))
        trained.append(home.submit(TrainSpec(adapter=name, base=base, train=digest, training=TRAINING)))
    short = TrainSpec(adapter="short", base=base, train=digest, training=TRAINING.evolve(max_length=8))
    refused = home.submit(short)
    parents = (Parent(adapter="birds"), Parent(adapter="finches"))
    composed = home.submit(ComposeSpec(adapter="both", parents=parents, evaluations=4), depends_on=trained)
    out = tmp_path / "merged"
    merged = home.submit(MergeSpec(parents=(Parent(adapter="both"),), out=str(out)), depends_on=[composed])
    assert home.job(merged).state is JobState.WAITING

    for job in (*trained, composed, merged):
        ended = home.wait(job)
        assert ended.state is JobState.SUCCEEDED, ended.reason
    reason = home.wait(refused).reason or ""
    assert "leaves no room" in reason
    with home.database.read() as session:
        birds, both = adapter_versions.resolve(session, "birds"), adapter_versions.resolve(session, "both")
    assert birds.metrics["loss_after"] < birds.metrics["loss_before"]
    assert birds.lineage.validation_digest is not None
    assert [parent.reference for parent in both.lineage.parents] == ["birds/1", "finches/1"]
    assert both.base.fingerprint == birds.base.fingerprint
    folder = home.artifacts.fetch_tree(both.digest)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "finch.json",
        "retention.svg",
    }
    report = home.job(merged).result["report"]  # type: ignore[index]
    assert report["max_logit_difference"] < 1e-3
    assert (out / "model.safetensors").exists()

    texts = home.texts()
    assert {"worker.log", "jobs", "events", "attempts"} <= texts.keys()
    for words in ("on day", "seeds and buds", "four insects"):
        assert not [name for name, text in texts.items() if words in text], "no text of a data set is logged or stored"

    assert home.settings.home.stat().st_mode & 0o777 == 0o700
    broker = [process for process in home.processes() if process.name().startswith("valkey")]
    assert len(broker) == 1
    assert [c for c in broker[0].net_connections() if c.status == "LISTEN" and c.laddr and len(c.laddr) == 2] == []
    wait_until(lambda: not home.processes(), "worker and broker to leave when idle", 60.0, home.log)


@pytest.mark.slow
def test_foreground_worker_takes_the_device_over_after_the_current_job(
    home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    examples = [Example.of_pair(f"What do birds eat on day {n}?", "They eat seeds.") for n in range(24)]
    digest = home.artifacts.put(dump_examples(examples))
    base = BaseModelSource(source=str(tiny_folder))
    long = TrainSpec(adapter="long", base=base, train=digest, training=TRAINING.evolve(epochs=50))

    def submit_short(name: str) -> str:
        return home.submit(ExportSpec(adapter="long", format="peft", out=str(tmp_path / name)))

    first = home.submit(long)
    wait_until(lambda: home.job(first).state is JobState.RUNNING, "the first job to run", report=home.log)
    environment = {"FINCH_HOME": str(home.settings.home)}
    foreground = WorkerProcess("foreground", environment, tmp_path / "foreground.log")
    try:
        wait_until(
            lambda: "action=wait" in foreground.text, "the second worker to wait", report=lambda: foreground.text
        )
        assert "finishes its current jobs first" in foreground.text
        second = submit_short("second")
        assert home.wait(first).state is JobState.SUCCEEDED
        assert home.wait(second).worker == "foreground"
        wait_until(lambda: home_worker.read_record(home.settings) is None, "the worker on demand to end")
        assert home.wait(submit_short("third")).worker == "foreground"
        assert home_worker.read_record(home.settings) is None, "none was started beside it"
        with home.database.read() as session:
            assert [attempt.outcome for attempt in jobs.list_attempts(session, first)] == ["succeeded"]
    finally:
        foreground.send(signal.SIGTERM)
        assert foreground.wait() == 0
    assert home.wait(submit_short("last")).worker != "foreground"
    assert home_worker.stop(home.settings)
    wait_until(lambda: not home.processes(), "everything to end")


def test_one_worker_serves_clients_that_start_it_at_once(home: Home) -> None:
    for _ in range(5):
        home_worker.ensure(home.settings)
    wait_until(lambda: " ready." in home.log(), "the worker to be ready")
    workers = [process for process in home.processes() if "finch_hub.workers" in process.cmdline()]
    wait_until(
        lambda: len([w for w in workers if w.is_running() and w.status() != "zombie"]) == 1, "the others to leave"
    )
    assert home_worker.stop(home.settings)
    assert not home_worker.stop(home.settings)
    wait_until(lambda: not home.processes(), "everything to end")
