"""Base models: where they are found, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import Hub, errors

from .conftest import train_spec


def test_bases_are_found_by_name_folder_and_hub_id(hub: Hub, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    added = hub.bases.add(tiny_folder, name="tiny")
    assert train_spec(hub, data, base="tiny").base.source == str(tiny_folder)
    assert train_spec(hub, data, base=added.fingerprint).base.source == str(tiny_folder)
    assert train_spec(hub, data, base="owner/model", revision="v1").base.revision == "v1"
    with pytest.raises(errors.NotFound, match="did you mean 'tiny'"):
        hub.train(data, adapter="birds", base="tyny")
    with pytest.raises(errors.NotFound):
        hub.train(data, adapter="birds", base=tmp_path / "missing.gguf")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(errors.Incompatible, match="tokenizer"):
        hub.train(data, adapter="birds", base=empty)


def test_second_add_of_a_base_keeps_its_chosen_name(hub: Hub, tiny_folder: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    assert hub.bases.add(tiny_folder).name == "tiny"
    assert hub.bases.add(tiny_folder, name="small").name == "small"
    assert len(hub.bases.find()) == 1
