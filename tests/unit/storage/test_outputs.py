"""Outputs of jobs: where they belong, and their way through the artifact store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors, progress
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.formats.finch_record import sign_record, write_record
from finch_hub.specs.jobs import MergeSpec, Parent
from finch_hub.specs.outputs import OutputPlace, StoredOutput
from finch_hub.storage import outputs


@pytest.fixture(params=["local", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"
    return ArtifactStore(url, cache=tmp_path / "cache")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What a child made: a folder with a record."""
    folder = tmp_path / "work" / "merged"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "deep" / "text").write_text("words")
    write_record(folder, "merged model", {})
    return folder


JOB: Any = SimpleNamespace(id="0198-abc", fence=2)


def spec_at(out: Path, place: OutputPlace | None = None) -> MergeSpec:
    return MergeSpec(parents=(Parent(adapter="birds"),), out=str(out), place=place)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_place_is_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "out"
    place = outputs.find_place(out)
    assert place.folder == str(tmp_path)
    assert outputs.is_here(spec_at(out, place))
    out.parent.mkdir(parents=True)  # another job wrote beside it in the meantime
    assert outputs.is_here(spec_at(out, place))
    assert outputs.is_here(spec_at(out)), "an earlier version submitted it"


@pytest.mark.parametrize("difference", ["machine", "user", "folder", "missing", "read-only"])
def test_same_path_elsewhere_is_not_here(difference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    spec = spec_at(parent / "out", outputs.find_place(parent / "out"))
    if difference == "machine":
        (tmp_path / "boot_id").write_text("another boot")
        monkeypatch.setattr(outputs, "_BOOT_ID", tmp_path / "boot_id")
    elif difference == "user":
        monkeypatch.setattr("os.geteuid", lambda: 10001)
    elif difference == "read-only":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    else:
        parent.rename(tmp_path / "moved")
        if difference == "folder":
            parent.mkdir()
    assert not outputs.is_here(spec)


def test_output_is_fetched_whole_and_then_removed(artifacts: ArtifactStore, made: Path, tmp_path: Path) -> None:
    stored = outputs.store_output(made, JOB, artifacts)
    assert stored.bytes == sum(map(len, contents(made).values()))
    assert artifacts.list_named(outputs.FOLDER) == [stored.name] == ["0198-abc-2"]
    assert artifacts.is_empty, "no artifact of the registry is among them"
    out = tmp_path / "new" / "merged"
    outputs.save_output(stored, out, artifacts, replace=False)
    assert contents(out) == contents(made)
    assert artifacts.list_named(outputs.FOLDER) == []
    with pytest.raises(errors.MissingArtifact):
        outputs.save_output(stored, out, artifacts, replace=True)
    assert contents(out) == contents(made)


def test_storing_and_fetching_tell_the_bytes(
    artifacts: ArtifactStore, tmp_path: Path, told: list[progress.Advance]
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_bytes(bytes(3_000_000))
    stored = outputs.store_output(tmp_path / "made", JOB, artifacts)
    outputs.save_output(stored, tmp_path / "out", artifacts, replace=False)
    for work in ("MB stored", "MB fetched"):
        assert [advance[:3] for advance in told if advance.work == work][-1] == (work, 3, 3)


@pytest.mark.parametrize("name", ["../blobs", "a/b", "..", ""])
def test_stored_output_names_no_other_folder(name: str) -> None:
    """The row of a job may come from the backup of another person."""
    with pytest.raises(errors.InvalidSpec, match="name"):
        StoredOutput(name=name, digest="0" * 64, bytes=0)


def test_output_replaces_an_earlier_one_on_request_only(artifacts: ArtifactStore, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_record(out, "merged model", {"old": True})
    stored = outputs.store_output(made, JOB, artifacts)
    with pytest.raises(errors.Conflict, match="replace=True"):
        outputs.save_output(stored, out, artifacts, replace=False)
    outputs.save_output(stored, out, artifacts, replace=True)
    assert contents(out) == contents(made)
    (tmp_path / "mine").write_text("mine")
    again = outputs.store_output(made, JOB, artifacts)
    with pytest.raises(errors.Conflict, match="not an earlier merged model"):
        outputs.save_output(again, tmp_path / "mine", artifacts, replace=True)
    assert artifacts.list_named(outputs.FOLDER) == [again.name]


def test_output_of_one_file_is_one_file(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "birds.gguf").write_bytes(b"GGUF")
    stored = outputs.store_output(tmp_path / "work" / "birds.gguf", JOB, artifacts)
    outputs.save_output(stored, tmp_path / "new" / "renamed.gguf", artifacts, replace=False)
    assert (tmp_path / "new" / "renamed.gguf").read_bytes() == b"GGUF"


def test_file_that_was_fetched_before_is_kept(artifacts: ArtifactStore, tmp_path: Path) -> None:
    made, out = tmp_path / "work" / "adapter.gguf", tmp_path / "adapter.gguf"
    made.parent.mkdir()
    made.write_bytes(b"GGUF")
    stored = outputs.store_output(made, JOB, artifacts)
    out.write_bytes(b"GGUF")  # its reader was killed before it removed the output from the store
    outputs.save_output(stored, out, artifacts, replace=False)
    stored = outputs.store_output(made, JOB, artifacts)
    out.write_bytes(b"another")
    with pytest.raises(errors.Conflict):
        outputs.save_output(stored, out, artifacts, replace=False)


def test_damaged_output_is_refused_and_kept(made: Path, tmp_path: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    stored = outputs.store_output(made, JOB, artifacts)
    digest = artifacts.below(f"{outputs.FOLDER}/{stored.name}").tree(stored.digest)["model.safetensors"].digest
    blob = next((tmp_path / "store" / "outputs").rglob(digest))
    blob.chmod(0o644)
    blob.write_bytes(b"other")
    with pytest.raises(errors.RefusedArtifact, match="storage is damaged"):
        outputs.save_output(stored, tmp_path / "out", artifacts, replace=False)
    assert not (tmp_path / "out").exists()
    assert artifacts.list_named(outputs.FOLDER) == [stored.name]


def test_output_that_the_store_does_not_remove_is_written_all_the_same(
    artifacts: ArtifactStore, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise errors.StoreUnavailable("read-only")

    stored = outputs.store_output(made, JOB, artifacts)
    monkeypatch.setattr(artifacts, "remove_folder", refuse)
    outputs.save_output(stored, tmp_path / "out", artifacts, replace=False)
    assert contents(tmp_path / "out") == contents(made)


def test_output_that_was_fetched_before_is_kept(artifacts: ArtifactStore, made: Path, tmp_path: Path) -> None:
    """Whoever fetched it was killed before it could remove the output from the store."""
    sign_record(made, JOB.id)
    stored = outputs.store_output(made, JOB, artifacts)
    outputs.save_output(stored, tmp_path / "out", artifacts, replace=False)
    (tmp_path / "out" / "notes").write_text("added by its user")
    assert outputs.store_output(made, JOB, artifacts) == stored
    outputs.save_output(stored, tmp_path / "out", artifacts, replace=False)
    assert (tmp_path / "out" / "notes").exists()
    assert artifacts.list_named(outputs.FOLDER) == []
    other = outputs.store_output(made, SimpleNamespace(id="0198-def", fence=1), artifacts)  # type: ignore[arg-type]
    with pytest.raises(errors.Conflict, match="replace=True"):
        outputs.save_output(other, tmp_path / "out", artifacts, replace=False)
