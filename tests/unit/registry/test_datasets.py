from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import datasets, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec, JobSpec


def add(database: Database, text: str = "train", name: str | None = None) -> values.Dataset:
    with database.write() as session:
        return datasets.add(
            session, digest=registry.digest(text), format="prompt_completion", examples=65, size=9000, name=name
        )


def test_data_set_is_identified_by_its_digest(database: Database) -> None:
    first = add(database, name="medical")
    assert add(database) == first
    assert add(database, name="medical") == first
    with pytest.raises(errors.Conflict, match="already stored as data set medical"):
        add(database, name="health")
    other = add(database, "validation")
    with database.read() as session:
        assert [found.digest for found in datasets.find(session)] == [other.digest, first.digest]


def test_data_set_is_found_by_name_digest_or_its_beginning(database: Database) -> None:
    made = add(database, name="medical")
    with database.read() as session:
        for name in ("medical", made.digest, made.digest[:8]):
            assert datasets.get(session, name) == made
        for name in (made.digest[:7], "%" * 8, "medicla"):
            with pytest.raises(errors.NotFound, match="no data set"):
                datasets.get(session, name)


def test_purge_keeps_the_digest_and_a_second_add_restores_the_data_set(database: Database) -> None:
    made = add(database, name="medical")
    with database.write() as session:
        purged = datasets.purge(session, "medical")
    assert purged.purged_at is not None
    assert purged.evolve(purged_at=None) == made
    assert add(database) == made


@pytest.mark.parametrize("field", ["train", "validation", "dataset"])
def test_purge_of_a_data_set_that_a_job_needs_is_refused(database: Database, field: str) -> None:
    made = add(database, "held out")
    spec: JobSpec = registry.train_spec().evolve(validation=made.digest)
    if field == "train":
        spec = registry.train_spec().evolve(train=made.digest)
    elif field == "dataset":
        spec = EvaluateSpec(dataset=made.digest, base=BaseModelSource(source="tiny"))
    job = registry.submit(database, spec=spec)
    with pytest.raises(errors.Conflict, match=f"cannot purge .*: job {job.id} needs it"), database.write() as session:
        datasets.purge(session, made.digest)
    registry.cancel(database, job)
    with database.write() as session:
        assert datasets.purge(session, made.digest).purged_at is not None


def test_sources_are_found_through_any_number_of_steps(database: Database) -> None:
    named, copy, half = add(database, "all", "birds"), add(database, "prompted"), add(database, "half")
    with database.write() as session:
        for made, source in ((copy, named), (half, copy), (half, half), (half, copy)):
            datasets.add_sources(session, made.digest, [source.digest])
    with database.read() as session:
        assert datasets.list_made(session, [named.digest]) == [named.digest, copy.digest, half.digest]
        assert datasets.list_made(session, [half.digest]) == [half.digest]
        assert datasets.list_source_names(session, [half.digest]) == ["birds"]
