"""Base models: where they are found, and their names."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from support.gguf_files import save_gguf
from support.models import DEFAULT, save_model

from finch_hub import Hub, errors
from finch_hub.registry import adapter_versions, bases, evaluations
from finch_hub.registry.database import Database

from .conftest import train_spec


def test_bases_are_found_by_name_folder_and_hub_id(hub: Hub, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    added = hub.bases.add(tiny_folder, name="tiny")
    assert train_spec(hub, data, base="tiny").base.source == str(tiny_folder)
    assert train_spec(hub, data, base=added.fingerprint).base.source == str(tiny_folder)
    assert train_spec(hub, data, base="owner/model", revision="v1").base.revision == "v1"
    with pytest.raises(errors.NotFound, match="did you mean 'tiny'"):
        hub.train(data, adapter="birds", base="tyny")
    for missing in (tmp_path / "missing.gguf", "./missing", "C:\\models\\missing"):
        with pytest.raises(errors.NotFound, match=r"no base .*give a folder that exists.* a repository id such as"):
            hub.train(data, adapter="birds", base=missing)
    for missing in ("/no/such", "C:\\models\\missing"):
        with pytest.raises(errors.NotFound, match=r"no folder.*a repository id such as"):
            hub.bases.add(missing)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(errors.Incompatible, match="tokenizer"):
        hub.train(data, adapter="birds", base=empty)


@pytest.mark.parametrize("address", ["store://user:correct-horse@h/birds", "https://h/birds?sig=correct-horse"])
def test_address_with_credentials_is_refused_and_stored_nowhere(hub: Hub, data: Path, address: str) -> None:
    for submit in (
        lambda: hub.bases.add(address),
        lambda: hub.bases.add(address, name="birds"),
        lambda: hub.train(data, adapter="birds", base=address),
        lambda: hub.evaluate(data, base=address),
    ):
        with pytest.raises(errors.InvalidSpec, match=r"was given with credentials.*~/\.netrc") as raised:
            submit()
        assert "correct-horse" not in f"{raised.value} {raised.value.problems}"
    assert (hub.bases.find(), hub.jobs.find()) == ([], [])


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


@dataclass
class Repository:
    """A repository of the Hugging Face Hub whose branch `main` can move; `fetched` lists what was asked for."""

    folder: Path
    main: str = "a" * 40
    fetched: list[str | None] = field(default_factory=list)

    def snapshot_download(self, name: str, *, revision: str | None = None, **_: Any) -> str:
        self.fetched.append(revision)
        return str(self.folder / "snapshots" / (self.main if revision in (None, "main") else revision))


@pytest.fixture
def repository(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    made = Repository(tmp_path / "models--org--tiny")
    for commit, context in (("a" * 40, 256), ("b" * 40, 512)):
        folder = shutil.copytree(tiny_folder, made.folder / "snapshots" / commit)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_a_branch_that_moves_on_changes_no_registered_base(hub: Hub, data: Path, repository: Repository) -> None:
    old = hub.bases.add("org/tiny")
    assert (old.name, old.revision, old.earlier) == ("org/tiny", "a" * 40, None)
    repository.main = "b" * 40
    assert train_spec(hub, data, base="org/tiny").base.revision == "a" * 40
    assert hub.bases.add("org/tiny", revision="a" * 40).earlier is None

    new = hub.bases.add("org/tiny")
    assert (new.name, new.revision) == ("org/tiny", "b" * 40)
    assert new.fingerprint != old.fingerprint
    assert new.earlier is not None
    assert (new.earlier.fingerprint, new.earlier.revision) == (old.fingerprint, "a" * 40)
    assert train_spec(hub, data, base="org/tiny").base.revision == "b" * 40
    assert train_spec(hub, data, base=old.fingerprint).base.revision == "a" * 40

    back = hub.bases.add("org/tiny", revision="a" * 40)
    assert (back.name, back.fingerprint) == ("org/tiny", old.fingerprint)
    assert back.earlier is not None
    assert back.earlier.fingerprint == new.fingerprint
    assert train_spec(hub, data, base="org/tiny").base.revision == "a" * 40


def test_revisions_with_names_of_their_own_stay_beside_each_other(hub: Hub, repository: Repository) -> None:
    first = hub.bases.add("org/tiny", name="one", revision="a" * 40)
    second = hub.bases.add("org/tiny", name="two", revision="b" * 40)
    assert (first.earlier, second.earlier) == (None, None)
    assert {base.name for base in hub.bases.find()} == {"one", "two"}


@pytest.mark.parametrize("name", ["tiny", None])
def test_folder_with_other_files_than_before_is_refused_until_it_is_added_again(
    hub: Hub, data: Path, tmp_path: Path, name: str | None
) -> None:
    folder = save_model(DEFAULT, tmp_path / "base")
    old = hub.bases.add(folder, name=name)
    save_model(DEFAULT, folder, seed=1)
    for base in (old.name, folder):
        with pytest.raises(errors.Incompatible, match=r"other files than when it was added.*finch-hub bases add"):
            hub.train(data, adapter="birds", base=base)
    new = hub.bases.add(folder)
    assert new.name == str(folder)
    assert new.earlier is not None
    assert new.earlier.fingerprint == old.fingerprint
    assert train_spec(hub, data, base=folder).base.source == str(folder)


def test_folder_whose_earlier_files_came_back_is_the_named_base_again(hub: Hub, data: Path, tmp_path: Path) -> None:
    folder = save_model(DEFAULT, tmp_path / "base")
    first = hub.bases.add(folder, name="tiny")
    save_model(DEFAULT, folder, seed=1)
    second = hub.bases.add(folder)
    assert second.fingerprint != first.fingerprint
    save_model(DEFAULT, folder)
    assert hub.bases.add(folder).fingerprint == first.fingerprint
    for base in (folder, "tiny"):
        assert train_spec(hub, data, base=base).base.source == str(folder)


def test_source_finds_the_base_that_has_its_name_rather_than_a_newer_one(hub: Hub, repository: Repository) -> None:
    registered = hub.bases.add("org/tiny", revision="a" * 40)
    hub.bases.add("org/tiny", name="two", revision="b" * 40)
    with hub._stores.database.read() as session:
        found = bases.find_source(session, "org/tiny", None)
    assert found is not None
    assert found.fingerprint == registered.fingerprint


@pytest.mark.usefixtures("parsing_here")
def test_gguf_file_with_other_bytes_than_before_is_refused(hub: Hub, data: Path, tmp_path: Path) -> None:
    model, file = tmp_path / "base", tmp_path / "base.gguf"
    old = hub.bases.add(save_gguf(save_model(DEFAULT, model), file), name="tiny")
    assert train_spec(hub, data, base="tiny").base.source == str(file)
    save_gguf(save_model(DEFAULT, model, seed=1), file)
    with pytest.raises(errors.Incompatible, match="other files than when it was added"):
        hub.train(data, adapter="birds", base="tiny")
    new = hub.bases.add(file, name="tiny", replace=True)
    assert new.earlier is not None
    assert new.earlier.fingerprint == old.fingerprint
    assert train_spec(hub, data, base="tiny").base.source == str(file)


def test_empty_source_is_not_the_working_directory(
    hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    monkeypatch.chdir(tiny_folder)
    with pytest.raises(errors.NotFound, match="no base ''"):
        hub.bases.add("")
    with pytest.raises(errors.NotFound, match="no file or folder ''"):
        hub.adapters.import_("", name="birds", base="tiny")


def test_base_that_something_needs_is_not_removed(hub: Hub, data: Path, tiny_folder: Path, database: Database) -> None:
    base = hub.bases.add(tiny_folder, name="tiny")
    job = hub.train(data, adapter="birds", base="tiny")
    with pytest.raises(errors.Conflict, match=f"cannot remove base tiny: job {job.id} needs it"):
        hub.bases.remove("tiny")
    job.cancel()
    with database.write() as session:
        adapter_versions.create(session, name="owls", digest="0" * 64, identity="0" * 64, base=base, kind="import")
        evaluations.add(session, base_id=base.id, dataset="0" * 64, evaluator="x", metrics={})
    with pytest.raises(errors.Conflict, match="cannot remove base tiny: adapter owls/1 needs it"):
        hub.bases.remove("tiny")
    hub.adapters.delete("owls/1")
    assert hub.bases.remove("tiny").kept == str(tiny_folder)
    assert hub.bases.find() == []
    for name in ("tiny", base.fingerprint):
        with pytest.raises(errors.NotFound):
            hub.bases.get(name)
    with pytest.raises(errors.NotFound):
        hub.bases.remove("tiny")
    again = hub.bases.add(tiny_folder, name="finch")
    assert (again.id, again.name, again.path) == (base.id, "finch", str(tiny_folder))
    assert hub.bases.get("finch").fingerprint == base.fingerprint


def test_removal_of_a_base_keeps_a_folder_that_a_user_put_beside_the_converted_ones(hub: Hub) -> None:
    own = save_model(DEFAULT, hub.settings.home / "bases" / "own")
    hub.bases.add(own, name="own")
    assert hub.bases.remove("own").kept == str(own)
    assert (own / "config.json").is_file()


@pytest.mark.usefixtures("parsing_here")
def test_removal_of_a_converted_base_frees_its_files(hub: Hub, tmp_path: Path) -> None:
    save_gguf(save_model(DEFAULT, tmp_path / "tiny"), tmp_path / "tiny.gguf")
    base = hub.bases.add(tmp_path / "tiny.gguf", name="tiny")
    assert base.path is not None
    removed = hub.bases.remove("tiny")
    assert removed.freed > 1000
    assert removed.kept is None
    assert not Path(base.path).exists()
    assert (tmp_path / "tiny.gguf").exists()
    assert hub.bases.find() == []
    assert hub.bases.add(tmp_path / "tiny.gguf", name="tiny").fingerprint == base.fingerprint


@pytest.mark.usefixtures("parsing_here")
def test_base_whose_converted_files_a_job_on_a_copy_of_its_file_needs_is_not_removed(
    hub: Hub, data: Path, tmp_path: Path
) -> None:
    file = save_gguf(save_model(DEFAULT, tmp_path / "tiny"), tmp_path / "tiny.gguf")
    copy = Path(shutil.copy(file, tmp_path / "copy.gguf"))
    first = hub.bases.add(file, name="tiny")
    job = hub.train(data, adapter="birds", base=file)
    second = hub.bases.add(copy, name="tiny")
    assert (second.id, second.path, second.source) == (first.id, first.path, str(copy))
    with pytest.raises(errors.Conflict, match=f"cannot remove base tiny: job {job.id} needs it"):
        hub.bases.remove("tiny")
    job.cancel()
    assert hub.bases.remove("tiny").freed
    assert hub.bases.add(file, name="tiny").fingerprint == first.fingerprint


def test_gguf_file_of_no_whole_model_is_refused_before_a_job(hub: Hub, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "adapter.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    for use in (hub.bases.add, lambda base: hub.train(data, adapter="birds", base=base)):
        with pytest.raises(errors.Incompatible, match=r"adapter\.gguf: has no tensors of layers"):
            use(file)
    assert hub.jobs.find() == []
