from __future__ import annotations

import pytest
from support import registry

from finch_hub.registry import adapter_versions, artifacts, datasets
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import (
    BaseModelSource,
    ComposeSpec,
    EvaluateSpec,
    ExportSpec,
    JobSpec,
    MergeSpec,
    Parent,
    QuantizeSpec,
    TrainSpec,
)


def referenced(database: Database) -> set[str]:
    with database.read() as session:
        return artifacts.referenced(session)


def test_versions_and_data_sets_are_kept_until_they_are_deleted(database: Database) -> None:
    assert referenced(database) == set()
    version = registry.add_version(database)
    data = registry.digest("data")
    with database.write() as session:
        datasets.add(session, digest=data, format="text", examples=1)
    assert referenced(database) == {version.digest, data}
    with database.write() as session:
        adapter_versions.delete(session, "medical", 1)
        datasets.purge(session, data)
    assert referenced(database) == set()


BASE, DATA, OTHER = BaseModelSource(source="tiny"), registry.digest("train"), registry.digest("validation")
READS: list[tuple[JobSpec, set[str]]] = [
    (TrainSpec(adapter="new", base=BASE, train=DATA, validation=OTHER), {DATA, OTHER}),
    (ComposeSpec(adapter="new", parents=(Parent(adapter="medical"),)), {registry.digest("tree of medical")}),
    (MergeSpec(parents=(Parent(adapter="medical/1"),), out="/x"), {registry.digest("tree of medical")}),
    (QuantizeSpec(adapter="medical@stable"), {registry.digest("tree of medical")}),
    (ExportSpec(adapter="medical", format="vllm", out="/x"), {registry.digest("tree of medical")}),
    (
        EvaluateSpec(base=BASE, adapters=("medical/1",), dataset=DATA),
        {registry.digest("tree of medical"), DATA},
    ),
]


@pytest.mark.parametrize(("spec", "reads"), READS, ids=lambda value: getattr(value, "kind", ""))
def test_what_an_unfinished_job_reads_is_kept_though_deleted(
    database: Database, spec: JobSpec, reads: set[str]
) -> None:
    registry.add_version(database)
    job = registry.submit(database, spec=spec)
    with database.write() as session:
        adapter_versions.delete(session, "medical", 1)
    assert referenced(database) == reads
    registry.cancel(database, job)
    assert referenced(database) == set()
