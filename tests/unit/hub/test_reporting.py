"""Reports as files: of versions, and of jobs in each state."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import registry
from support.evidence import HOSTILE, make_composition, make_curve, make_training

from finch_hub import Hub, errors
from finch_hub.registry import adapter_versions, attempts
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.evidence import Sample, Samples
from finch_hub.specs.reports import MergeReport

SAMPLES = Samples(samples=(Sample(prompt="Why <b>?", expected="So.", before="Hm.", after="So."),), max_tokens=64)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_report_of_a_training_has_all_that_is_known(hub: Hub, database: Database, tmp_path: Path) -> None:
    samples = hub._stores.artifacts.put(SAMPLES.to_stored())
    spec = registry.train_spec(adapter="birds").model_dump(mode="json")
    document = make_training(make_curve(40, 4)).to_document()
    registry.add_version(database, "birds", kind="train", spec=spec, evidence=document, samples=samples)
    with database.write() as session:
        adapter_versions.edit_notes(session, "birds/1", f"Notes {HOSTILE}")
    path = hub.adapters.write_report("birds", tmp_path / "out.html")
    assert path == tmp_path / "out.html"
    written = read(path)
    for heading in ("Summary", "Training", "Data", "Drift", "Lineage", "Settings", "Repeat it"):
        assert f">{heading}</h2>" in written
    assert f"finch-hub train {registry.digest('train')} --adapter birds --base tiny" in written
    assert written.count("<svg") == 4
    assert "<script" not in written
    assert "Why" not in written
    quoted = read(hub.adapters.write_report("birds", path, samples=True, replace=True))
    assert "Why &lt;b&gt;?" in quoted


def test_report_of_a_composition_has_its_parents(hub: Hub, versions: Database, tmp_path: Path) -> None:
    document = make_composition(["medical/1", "legal/1"], layers=3).to_document()
    lineage = registry.made_from("medical/1", "legal/1")
    registry.add_version(versions, "both", kind="compose", evidence=document, lineage=lineage)
    written = read(hub.adapters.write_report("both", tmp_path / "out.html"))
    assert "rows of medical/1" in written
    assert ">Conflicts</h2>" in written
    assert "medical/1 x 0.5" in written
    assert "legal/1 x 0.5" in written


def test_report_of_an_import_has_no_command(hub: Hub, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "guest", kind="import", spec={"import": {"notes": []}})
    written = read(hub.adapters.write_report("guest", tmp_path / "out.html"))
    assert "Repeat it" not in written
    assert "Nothing was recorded when it was made." in written


def test_report_of_a_running_job_has_the_curve_so_far(hub: Hub, database: Database, tmp_path: Path) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        for step in (1, 2, 3):
            data = {"step": step, "loss": 3.0 / step, "learning_rate": 1e-4}
            attempts.append_events(session, job, [NewEvent(type="progress", data=data)])
    written = read(hub.jobs.get(job.id).write_report(tmp_path / "out.html"))
    assert f"Job {job.id} (train)" in written
    assert "Loss by step" in written
    assert "running" in written


def test_report_of_a_failed_job_has_the_reason(hub: Hub, database: Database, tmp_path: Path) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    registry.fail(database, job, HOSTILE)
    written = read(hub.jobs.get(job.id).write_report(tmp_path / "out.html"))
    assert "&lt;script&gt;alert(1)" in written
    assert "<script" not in written


def test_report_of_a_job_with_a_version_is_that_of_the_version(hub: Hub, database: Database, tmp_path: Path) -> None:
    evidence = make_training(make_curve(9, 2))
    spec = registry.train_spec().model_dump(mode="json")
    registry.add_version(database, "medical", kind="train", spec=spec, evidence=evidence.to_document())
    job = registry.claimed(database, job_id=registry.submit(database, labels=("fast",)).id)
    report = evidence.training
    assert report is not None
    registry.succeed(database, job, adapter="medical/1", report=report.model_dump(mode="json"))
    path = hub.jobs.get(job.id).write_report(tmp_path / "out.html")
    written = read(path)
    assert "Adapter medical/1" in written
    assert job.id in written
    assert "--adapter medical --base tiny --label fast" in written
    registry.delete_version(database, "medical", 1)
    rest = read(hub.jobs.get(job.id).write_report(path, replace=True))
    assert f"Job {job.id} (train)" in rest
    assert ">Data</h2>" in rest


def test_report_of_a_kind_without_evidence_has_names_and_values(hub: Hub, versions: Database, tmp_path: Path) -> None:
    job = registry.submit(versions, spec=registry.merge_spec("medical/1"))
    claimed = registry.claimed(versions, job_id=job.id)
    report = MergeReport(out="/models/x", modules=7, bytes_written=10**9, seconds=2.5)
    registry.succeed(versions, claimed, report=report.model_dump(mode="json"))
    written = read(hub.jobs.get(job.id).write_report(tmp_path / "out.html"))
    assert "/models/x" in written
    assert "finch-hub merge medical/1 --out" in written
    with pytest.raises(errors.Conflict, match="has made no version"):
        hub.jobs.get(job.id).write_report(tmp_path / "samples.html", samples=True)


def test_only_an_earlier_report_is_replaced(hub: Hub, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "birds")
    path = hub.adapters.write_report("birds", tmp_path / "out.html")
    with pytest.raises(errors.Conflict, match="holds an earlier report"):
        hub.adapters.write_report("birds", path)
    hub.adapters.write_report("birds", path, replace=True)
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "folder").mkdir()
    for other in ("mine.html", "folder"):
        with pytest.raises(errors.Conflict, match="is not an earlier report"):
            hub.adapters.write_report("birds", tmp_path / other, replace=True)
    assert (tmp_path / "mine.html").read_text() == "mine"
    with pytest.raises(errors.InvalidSpec):
        hub.adapters.write_report("birds", "")


def test_secret_of_the_settings_is_not_written(hub: Hub, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "birds", spec={"system": "use hf_abcdefghijklmnopqrstuvwxyzABCDEFGH here"})
    written = read(hub.adapters.write_report("birds", tmp_path / "out.html"))
    assert "hf_abcdefghij" not in written
