from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import evaluations
from finch_hub.registry.database import Database


def test_measurements_are_found_by_version(database: Database) -> None:
    base = registry.add_base(database)
    registry.add_version(database)
    registry.submit(database)
    job = registry.claimed(database)
    one, two = registry.digest("one"), registry.digest("two")
    with database.write() as session:
        for adapter, dataset, loss in ((None, one, 3.0), ("medical/1", one, 2.0), ("medical/1", two, 2.5)):
            evaluations.add(
                session,
                base_id=base.id,
                adapter=adapter,
                dataset=dataset,
                evaluator="held_out_loss",
                metrics={"loss": loss},
                job_id=job.id,
            )
        found = evaluations.find(session)
        assert [(item.adapter, item.dataset, item.metrics["loss"]) for item in found] == [
            ("medical/1", two, 2.5),
            ("medical/1", one, 2.0),
            (None, one, 3.0),
        ]
        assert {(item.base, item.evaluator, item.job_id) for item in found} == {("tiny", "held_out_loss", job.id)}
        assert [item.metrics["loss"] for item in evaluations.find(session, adapter="medical/1")] == [2.5, 2.0]
        assert len(evaluations.find(session, limit=1)) == 1
        with pytest.raises(errors.NotFound, match="medical/2"):
            evaluations.find(session, adapter="medical/2")
