"""Data sets: purging."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import Hub, errors
from finch_hub.engine.data import reading
from finch_hub.specs.jobs import TrainSpec


def test_training_on_a_purged_data_set_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    dataset = hub.datasets.add(data, name="birds-data")
    content = reading.dump_examples(reading.read_examples(data))
    blobs = hub.settings.home / "artifacts" / "blobs"
    assert content in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.purge("birds-data").purged_at is not None
    assert content not in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.get(dataset.digest).examples == 20
    with pytest.raises(errors.Conflict, match="purged"):
        hub.train("birds-data", adapter="birds", base=tiny_folder)


def test_purge_of_a_data_set_that_a_job_needs_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.train(data, adapter="birds", base=tiny_folder, validation=0.0)
    assert isinstance(handle.spec, TrainSpec)
    with pytest.raises(errors.Conflict, match=handle.id):
        hub.datasets.purge(handle.spec.train)
