"""Base models: where they are found, and their names."""

from __future__ import annotations

import shutil
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
    assert len(hub.bases.find()) == 1


def test_second_name_of_the_same_files_is_refused_unless_it_replaces_the_first(hub: Hub, tiny_folder: Path) -> None:
    unnamed = hub.bases.add(tiny_folder)
    first = hub.bases.add(tiny_folder, name="one")
    assert (unnamed.renamed_from, first.renamed_from) == (None, str(tiny_folder))
    with pytest.raises(errors.Conflict, match=r"already base 'one': a base has one name .use that name, or rename"):
        hub.bases.add(tiny_folder, name="two")
    assert hub.bases.get("one").fingerprint == first.fingerprint
    assert hub.bases.add(tiny_folder, name="one").renamed_from is None
    renamed = hub.bases.add(tiny_folder, name="two", replace=True)
    assert (renamed.name, renamed.renamed_from) == ("two", "one")
    for find in (hub.bases.get, hub.bases.resolve):
        with pytest.raises(errors.NotFound, match=r"no base 'one' .known: two."):
            find("one")
    assert hub.bases.add(tiny_folder).renamed_from is None
    assert [base.name for base in hub.bases.find()] == ["two"]


def test_copy_of_the_files_under_a_second_name_is_refused(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.bases.add(tiny_folder, name="one")
    shutil.copytree(tiny_folder, tmp_path / "copy")
    with pytest.raises(errors.Conflict, match="already base 'one'"):
        hub.bases.add(tmp_path / "copy", name="two")


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
