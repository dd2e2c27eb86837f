"""Evidence of versions: written with them, and read from the jobs of versions of before, which may be pruned."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_versions, attempts, datasets, evidence, jobs, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.reports import CompositionReport, ConflictReport, PairConflict, Retention

SAMPLES = registry.digest("samples")
PAIR = PairConflict(
    module="",
    first="team/birds/1",
    second="bees/1",
    output_overlap=0.1,
    input_overlap=0.1,
    cosine=0.1,
    sign_conflict=0.1,
    norm_ratio=0.9,
)
NOTED = Evidence(kind="import", notes=("measured elsewhere",))


def find(database: Database, reference: str) -> tuple[Evidence, str | None]:
    with database.read() as session:
        return evidence.find(session, reference)


def count_rows(database: Database) -> int:
    with database.read() as session:
        return session.scalars(sa.select(sa.func.count()).select_from(tables.Evidence)).one()


def end_training(database: Database, name: str = "medical", **report: Any) -> str:
    """Let a job of before end with a report, make a version without evidence of its own, and return the job's id."""
    job = registry.claimed(database, job_id=registry.submit(database).id)
    with database.write() as session:
        events = [
            NewEvent(type="progress", data={"step": step, "loss": 3 - step / 10, "learning_rate": 1e-4})
            for step in (1, 2, 3)
        ]
        attempts.append_events(session, job, [*events, NewEvent.phase("measuring")])
    data = {"examples": 8, "tokens": 80, "label_tokens": 40, "length_mean": 10, "length_max": 12, "length_p95": 12}
    required = {"steps": 3, "epochs": 1, "tokens": 80, "seconds": 1, "train_loss": 2.5, "trainable_parameters": 1}
    registry.add_version(database, name, job_id=job.id, digest=registry.digest(job.id))
    registry.succeed(
        database, job, report={**required, "total_parameters": 2, "data": {**data, "problems": ["a row"]}, **report}
    )
    return job.id


def test_evidence_is_written_with_the_version_and_read_with_its_environment(database: Database) -> None:
    lineage = values.Lineage(environment={"threads": 2})
    registry.add_version(database, evidence=NOTED.to_document(), samples=SAMPLES, lineage=lineage)
    found, samples = find(database, "medical")
    assert samples == SAMPLES
    assert found == NOTED.evolve(adapter="medical/1", environment={"threads": 2}, samples="stored")


def test_parents_in_evidence_have_the_names_that_they_have_now(database: Database) -> None:
    registry.add_version(database, "team/birds")
    registry.add_version(database, "bees")
    report = CompositionReport(
        strategy="linear",
        scale=1.0,
        rank=4,
        conflicts=ConflictReport(
            parents=("team/birds/1", "bees/1"),
            pairs=(PAIR,),
            reasons=("team/birds/1 and bees/1 disagree", "team/birds/12 and x-bees/1 do not"),
        ),
        retention=(
            Retention(parent="team/birds/1", status="unmeasured"),
            Retention(parent="bees/1", status="measured"),
        ),
        below_retention=("team/birds/1",),
        advice=("team/birds/1 was not measured",),
    )
    document = Evidence.of_composition(report).to_document()
    lineage = registry.made_from("team/birds/1", "bees/1")
    registry.add_version(database, "both", kind="compose", lineage=lineage, evidence=document)
    with database.write() as session:
        adapter_names.rename(session, "team/birds", "team/feathers")
    found = find(database, "both")[0].composition
    assert found is not None
    assert found.conflicts.parents == ("team/feathers/1", "bees/1")
    assert (found.conflicts.pairs[0].first, found.conflicts.pairs[0].second) == ("team/feathers/1", "bees/1")
    assert found.conflicts.reasons == ("team/feathers/1 and bees/1 disagree", "team/birds/12 and x-bees/1 do not")
    assert [kept.parent for kept in found.retention] == ["team/feathers/1", "bees/1"]
    assert (found.below_retention, found.advice) == (("team/feathers/1",), ("team/feathers/1 was not measured",))


def test_version_without_evidence_has_an_empty_one_and_an_unknown_version_none(database: Database) -> None:
    registry.add_version(database)
    found, samples = find(database, "medical/1")
    assert (found.adapter, found.is_empty, found.samples, samples) == ("medical/1", True, "none", None)
    with pytest.raises(errors.NotFound, match="medical/2"):
        find(database, "medical/2")


def test_evidence_that_this_version_cannot_read_is_empty_and_says_so(database: Database) -> None:
    registry.add_version(database, evidence={"kind": "train", "curve": {"steps": "all"}})
    found = find(database, "medical")[0]
    assert (found.is_empty, found.absence) == (True, "unreadable")


def test_version_without_evidence_says_why_there_is_none(database: Database) -> None:
    registry.add_version(database, "made")
    registry.add_version(database, "taken", kind="import")
    registry.add_version(database, "noted", evidence=NOTED.to_document())
    registry.add_version(database, "empty", evidence={"kind": "train"})
    registry.add_version(database, "purged", evidence=NOTED.to_document())
    registry.purge(database, "purged/1")
    damaged, without = registry.submit(database), registry.submit(database)
    for job in (damaged, without):
        registry.claimed(database, job_id=job.id)
    registry.add_version(database, "damaged", job_id=damaged.id)
    registry.add_version(database, "without", job_id=without.id)
    registry.succeed(database, registry.get(database, damaged), report={"steps": "all"})
    registry.succeed(database, registry.get(database, without), output="x")
    names = ("made", "taken", "noted", "empty", "purged/1", "damaged", "without")
    assert [find(database, name)[0].absence for name in names] == [
        "pruned",
        "not recorded",
        None,
        "not recorded",
        "purged",
        "unreadable",
        "not recorded",
    ]


def test_deleted_version_has_its_evidence_by_its_number_only(database: Database) -> None:
    registry.add_version(database, evidence=NOTED.to_document())
    registry.delete_version(database, "medical", 1)
    assert find(database, "medical/1")[0].notes == NOTED.notes
    with pytest.raises(errors.NotFound):
        find(database, "medical")


def test_evidence_of_an_old_version_is_that_of_its_job_and_is_kept_when_the_job_is_pruned(database: Database) -> None:
    end_training(database)
    before = find(database, "medical/1")[0]
    assert before.curve is not None
    assert before.curve.points == [(1, 2.9, 1e-4), (2, 2.8, 1e-4), (3, 2.7, 1e-4)]
    assert before.data is not None
    assert (before.data.examples, before.data.problems) == (8, ())
    assert count_rows(database) == 0
    with database.write() as session:
        assert len(jobs.prune(session, older_than=0)) == 1
    assert count_rows(database) == 1
    assert find(database, "medical/1")[0] == before


def test_prune_keeps_the_evidence_of_a_bounded_number_of_versions_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_MAX_KEPT", 2)
    ids = [end_training(database, name) for name in ("a", "b", "c")]
    unreadable = end_training(database, "d", steps="many")
    rounds = []
    for _ in range(3):
        with database.write() as session:
            rounds.append(jobs.prune(session, older_than=0))
    assert rounds == [ids[:2], [ids[2], unreadable], []]
    assert not find(database, "c/1")[0].is_empty
    assert find(database, "d/1")[0].is_empty


def test_prune_changes_no_evidence_that_is_there(database: Database) -> None:
    end_training(database)
    with database.write() as session:
        row = adapter_versions.get_row(session, "medical/1")
        session.execute(sa.insert(tables.Evidence).values(version_id=row.id, document=NOTED.to_document()))
        jobs.prune(session, older_than=0)
    assert find(database, "medical/1")[0].notes == NOTED.notes


def test_samples_are_listed_in_pages_with_whether_their_data_was_purged(database: Database) -> None:
    names = {name: registry.digest(name) for name in ("kept", "gone")}
    with database.write() as session:
        for name, digest in names.items():
            datasets.add(session, digest=digest, format="messages", examples=1, name=name)
        datasets.purge(session, "gone")
    for train, held_out, samples in (
        ("kept", "kept", "1"),
        ("kept", "gone", "2"),
        ("gone", None, "3"),
        ("kept", None, None),
    ):
        lineage = values.Lineage(train_digest=names[train], validation_digest=names[held_out] if held_out else None)
        stored = registry.digest(samples) if samples else None
        registry.add_version(database, lineage=lineage, evidence=NOTED.to_document(), samples=stored)
    with database.read() as session:
        listed = evidence.list_samples(session)
        pages = [evidence.list_samples(session, after=found.version_id, limit=1) for found in listed]
    assert [found.is_of_purged for found in listed] == [False, True, True]
    assert pages == [listed[1:2], listed[2:3], []]


def test_purged_samples_are_forgotten_by_all_versions_that_have_them(database: Database) -> None:
    for _ in range(2):
        registry.add_version(database, evidence=NOTED.to_document(), samples=SAMPLES)
    registry.add_version(database, evidence=NOTED.to_document(), samples=registry.digest("others"))
    with database.write() as session:
        assert evidence.forget_samples(session, [SAMPLES]) == 2
    states = [(found.samples, samples) for found, samples in (find(database, f"medical/{n}") for n in (1, 2, 3))]
    assert states == [("purged", None), ("purged", None), ("stored", registry.digest("others"))]


def test_lists_of_versions_read_no_evidence(database: Database) -> None:
    registry.add_version(database, evidence=NOTED.to_document())
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    with database.read() as session:
        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        adapter_versions.find(session, "medical")
        adapter_versions.resolve_files(session, "medical")
        sa.event.remove(session.get_bind(), "before_cursor_execute", note)
    assert statements
    assert not any("evidence" in statement for statement in statements)
