"""Previews of data and of trainings, which store nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import Hub, errors
from finch_hub.specs.jobs import TrainSpec

ROWS = [(f"Question {n}?", f"Answer {n}.") for n in range(20)]


def test_data_is_previewed_as_the_base_sees_it(hub: Hub, tiny_folder: Path) -> None:
    preview = hub.datasets.preview(ROWS, base=tiny_folder, limit=2)
    assert [row.number for row in preview.rows] == [1, 2]
    assert preview.read.rows == 20
    assert any(part.kind == "learned" and "Answer 0." in part.text for part in preview.rows[0].parts)
    assert hub.datasets.find() == []


def test_training_is_previewed_with_its_data_memory_and_settings(hub: Hub, tiny_folder: Path) -> None:
    request = {"adapter": "birds", "base": tiny_folder, "epochs": 2, "batch_size": 4, "validation": 0.2, "rank": 4}
    preview = hub.preview_training(ROWS, **request)  # type: ignore[arg-type]
    assert (preview.data.examples, preview.data.validation_examples, preview.data.steps) == (16, 4, 8)
    assert (preview.lora.rank, preview.training.epochs) == (4, 2)
    assert preview.seconds is None  # nothing was trained here
    assert hub.jobs.find() == []
    assert hub.datasets.find() == []
    handle = hub.train(ROWS, **request)  # type: ignore[arg-type]
    assert isinstance(handle.spec, TrainSpec)
    assert (handle.spec.lora, handle.spec.training) == (preview.lora, preview.training)
    assert handle.refresh().requirements.memory_bytes == preview.memory_bytes


def test_preview_of_a_training_names_all_its_problems(hub: Hub, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        hub.preview_training(ROWS, adapter="birds", base=tiny_folder, rank=0, epochs=0)
    assert {problem.where for problem in refused.value.problems} == {"rank", "epochs"}


def test_preview_without_the_files_of_the_base_says_how_to_get_them(hub: Hub) -> None:
    with pytest.raises(errors.Unavailable, match="finch-hub bases add"):
        hub.datasets.preview(ROWS, base="org/absent")
