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


def test_id_of_a_base_is_given_and_changed_later(hub: Hub, tiny_folder: Path) -> None:
    assert hub.bases.add(tiny_folder, name="tiny").hub_id is None
    assert hub.bases.add(tiny_folder, public_id="birds/tiny").hub_id == "birds/tiny"
    assert hub.bases.add(tiny_folder).hub_id == "birds/tiny"
    changed = hub.bases.add(tiny_folder, public_id="birds/finch-1b")
    assert (changed.name, changed.hub_id, changed.label) == ("tiny", "birds/finch-1b", "birds/finch-1b")


@pytest.mark.parametrize(
    "wrong", ["", "/models/tiny", "a/b/c", "owner/na me", "../tiny", "o/" + "x" * 300, "https://x"]
)
def test_id_that_is_no_repository_id_is_refused(hub: Hub, tiny_folder: Path, wrong: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="owner/name"):
        hub.bases.add(tiny_folder, public_id=wrong)
    assert hub.bases.find() == []
