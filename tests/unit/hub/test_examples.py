"""Examples: the forms in which they are given."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest

from finch_hub import Example, Hub, errors
from finch_hub.engine.data import example_file

from .conftest import train_spec


def test_data_accepts_pairs_mappings_examples_and_stored_names(hub: Hub, data: Path, tiny_folder: Path) -> None:
    pairs = [("Who sings?", "The finch."), ("Who eats?", "The finch.")]
    mappings = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    examples = [Example.of_pair(prompt, completion) for prompt, completion in pairs]
    digests = {train_spec(hub, given, base=tiny_folder, validation=0.0).train for given in (pairs, mappings, examples)}
    assert len(digests) == 1
    hub.datasets.add(data, name="birds-data")
    by_name = train_spec(hub, "birds-data", base=tiny_folder, validation=0.0)
    assert by_name.train == train_spec(hub, data, base=tiny_folder, validation=0.0).train


def test_empty_text_is_not_the_current_folder(hub: Hub, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    with pytest.raises(errors.InvalidDataset, match="no data is named"):
        hub.datasets.add("")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5_000, "a/" * 3_000, "a\0b", "file.jsonl/x", "~nobody-here/x"])
def test_name_that_no_file_can_have_is_not_found(hub: Hub, data: Path, tiny_folder: Path, name: str) -> None:
    with pytest.raises(errors.NotFound):
        hub.datasets.add(name)
    with pytest.raises(errors.NotFound):
        hub.datasets.add(str(data / name))
    with pytest.raises(errors.NotFound):
        hub.train(name, adapter="birds", base=tiny_folder)
    with pytest.raises(errors.NotFound):
        hub.train(data, adapter="birds", base=tiny_folder, validation=name)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "text"},
        {"prompt_column": "q"},
        {"messages_column": "q"},
        {"encoding": "cp1252"},
        {"delimiter": ";"},
        {"file_format": "csv"},
    ],
)
def test_options_of_reading_are_refused_for_stored_data(hub: Hub, data: Path, options: dict[str, Any]) -> None:
    hub.datasets.add(data, name="birds-data")
    (option,) = options
    with pytest.raises(errors.InvalidDataset, match=f"birds-data: is stored, so that {option} cannot change"):
        hub.datasets.add("birds-data", **options)
    assert hub.datasets.add("birds-data", strict=True, max_bad_rows=0.0).examples == 20


def test_mapping_without_a_training_split_is_one_problem_among_others(hub: Hub, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="is a mapping of test") as caught:
        hub.train({"test": [("a", "b")]}, adapter="not a name", base=tiny_folder)
    assert len(caught.value.problems) == 2


def test_full_temporary_folder_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_full(place: Path) -> contextlib.AbstractContextManager[Path]:
        (tmp_path / "examples.jsonl").symlink_to("/dev/full")
        return contextlib.nullcontext(tmp_path)

    monkeypatch.setattr(example_file, "scratch_folder", make_full)
    with pytest.raises(errors.Unavailable, match=r"could not write to .*: No space left on device .free space there"):
        hub.datasets.add([("a", "b")])
    monkeypatch.undo()
    assert hub.datasets.find() == []


def test_missing_temporary_folder_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(errors.Unavailable, match=r"could not write to .*none: No such file or directory .free space"):
        hub.datasets.add([("a", "b")])
