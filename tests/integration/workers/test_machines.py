"""Workers with homes of their own, as on several machines, with one PostgreSQL, broker and S3 bucket."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import services
from support.adapters import save_adapter
from support.buckets import make_bucket
from support.fleet import Fleet, fleet, wait_until

from finch_hub import Hub, errors
from finch_hub.engine import verify_merge
from finch_hub.engine.data.reading import dump_examples
from finch_hub.registry import adapter_versions
from finch_hub.registry import workers as registry_workers
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, ComposeSpec, JobState, Parent, TrainSpec
from finch_hub.specs.reports import MergeReport
from finch_hub.specs.training import TrainingConfig
from finch_hub.storage import outputs

EXAMPLES = tuple(Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(12))


@pytest.fixture
def bucket() -> Iterator[str]:
    """Return the URL of an empty bucket on a new S3 server."""
    with make_bucket() as url:
        yield url


@pytest.fixture
def machines(tmp_path: Path, postgresql_databases: services.Databases, bucket: str) -> Iterator[Fleet]:
    url = postgresql_databases.new()
    try:
        with fleet(tmp_path, url, artifacts_url=bucket) as made:
            yield made
    finally:
        postgresql_databases.drop(url)


def tell(machines: Fleet, worker: str, state: str) -> None:
    with machines.database.write() as session:
        registry_workers.request_state(session, worker, state)  # type: ignore[arg-type]


def states(machines: Fleet) -> dict[str, str]:
    with machines.database.read() as session:
        return {worker.id: worker.state for worker in registry_workers.find(session)}


@pytest.mark.slow
def test_machines_share_jobs_and_artifacts_and_are_drained_and_stopped(machines: Fleet, tiny_folder: Path) -> None:
    def train(name: str) -> str:
        training = TrainingConfig(epochs=1, batch_size=2, threads=1, validation=0.2)
        digest = machines.artifacts.put(dump_examples(EXAMPLES))
        base = BaseModelSource(source=str(tiny_folder))
        return machines.submit(TrainSpec(adapter=name, base=base, train=digest, training=training))

    machines.artifacts.below(f"{outputs.FOLDER}/unknown-1").put(b"of a job that was deleted")
    first = machines.start("first", finch_home=str(machines.folder / "home-1"))
    wait_until(lambda: machines.artifacts.list_named(outputs.FOLDER) == [], "the sweep of the store")
    seeds = train("seeds")
    assert machines.wait(seeds).worker == "first"
    second = machines.start("second", finch_home=str(machines.folder / "home-2"))
    assert states(machines) == {"first": "active", "second": "active"}

    tell(machines, "first", "draining")
    assert first.wait() == 0
    assert states(machines) == {"first": "stopped", "second": "active"}
    buds = train("buds")
    assert machines.wait(buds).worker == "second"
    parents = (Parent(adapter="seeds/1"), Parent(adapter="buds/1"))
    composed = machines.submit(ComposeSpec(adapter="both", parents=parents, strategy="linear", scale=1.0))
    assert (machines.wait(composed).state, machines.job(composed).worker) == (JobState.SUCCEEDED, "second")
    with machines.database.read() as session:
        assert [p.reference for p in adapter_versions.resolve(session, "both").lineage.parents] == ["seeds/1", "buds/1"]
    assert not (machines.folder / "home-1" / "artifacts").exists()
    assert not (machines.folder / "home-2" / "artifacts").exists()

    long = machines.probe("sleep", seconds=60, once=True)
    machines.wait_begun(long)
    tell(machines, "second", "stopping")
    assert second.wait() == 0
    assert machines.job(long).state is JobState.QUEUED
    third = machines.start("first", finch_home=str(machines.folder / "home-1"))
    assert machines.wait(long).state is JobState.SUCCEEDED
    assert machines.job(long).attempts == 1
    wait_until(lambda: states(machines) == {"first": "active", "second": "stopped"}, "the workers to be listed")
    for worker in (first, second, third):
        assert "a-secret-of-the-tests" not in worker.text
    machines.check(seeds, buds, composed, long)


@pytest.mark.slow
def test_outputs_reach_the_machine_of_the_submitter(
    machines: Fleet, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has another boot id than the worker, as another machine would."""
    machines.start("far", finch_home=str(machines.folder / "home-far"))
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    client = machines.settings.model_copy(update={"home": tmp_path / "client"})
    with Hub(client) as hub:
        hub.bases.add(tiny_folder, name="tiny")
        hub.import_adapter(adapter, name="birds", base="tiny")
        with monkeypatch.context() as elsewhere:
            (tmp_path / "boot_id").write_text("boot of the client")
            elsewhere.setattr(outputs, "_BOOT_ID", tmp_path / "boot_id")
            merge = hub.merge(["birds"], tmp_path / "merged")
            merge.wait()
            assert merge.has_output()
            assert not (tmp_path / "merged").exists()
            report = merge.result()
            assert isinstance(report, MergeReport)
            assert report.out == str(tmp_path / "merged")
            verified = verify_merge(tiny_folder, [(adapter, 1.0)], tmp_path / "merged")
            assert report.max_logit_difference is not None
            assert max(report.max_logit_difference, verified.max_logit_difference) < 1e-3
            assert merge.result() == report, "it was fetched before"
            with pytest.raises(errors.MissingArtifact, match="no stored output of job"):
                merge.save(tmp_path / "again")
            export = hub.export("birds", tmp_path / "gguf", format="gguf")
            assert export.save(tmp_path / "elsewhere") == tmp_path / "elsewhere"
            assert (tmp_path / "elsewhere" / "adapter.gguf").exists()
            assert export.report().model_dump()["file"] == str(tmp_path / "gguf" / "adapter.gguf")
            assert machines.artifacts.list_named(outputs.FOLDER) == []
        here = hub.export("birds", tmp_path / "here")
        assert here.wait().result == here.refresh().result
        assert not here.has_output()
        assert (tmp_path / "here" / "adapter_model.safetensors").exists(), "the worker wrote it"
        with pytest.raises(errors.Conflict, match="far wrote it to"):
            here.save()


@pytest.mark.slow
def test_job_of_a_lost_machine_goes_on_from_the_bucket(machines: Fleet, tiny_folder: Path) -> None:
    machines.environment["FINCH_CHECKPOINT_SECONDS"] = "0.05"
    training = TrainingConfig(epochs=200, batch_size=2, threads=1, checkpoint_every=10)
    digest = machines.artifacts.put(dump_examples(EXAMPLES))
    base = BaseModelSource(source=str(tiny_folder))
    first = machines.start("first", finch_home=str(machines.folder / "home-1"))
    job = machines.submit(TrainSpec(adapter="seeds", base=base, train=digest, training=training))
    wait_until(lambda: machines.artifacts.list_named("checkpoints") == [f"{job}-1"], "the checkpoint to be copied")
    first.send(signal.SIGKILL)
    first.wait()
    shutil.rmtree(machines.folder / "home-1")
    machines.start("second", finch_home=str(machines.folder / "home-2"))
    assert machines.wait(job).state is JobState.SUCCEEDED
    assert any("resumed after step" in line for line in machines.event_lines(job))
    wait_until(lambda: machines.artifacts.list_named("checkpoints") == [], "the copies to be removed")
    machines.check(job)
