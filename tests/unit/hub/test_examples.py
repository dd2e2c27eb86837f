"""Examples: the forms in which they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import Example, Hub, errors

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
