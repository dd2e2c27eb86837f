"""Checkpoints in the artifact store: whole or absent, and one attempt's never changed by another."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finch_hub import errors, progress
from finch_hub.artifacts import checkpoints
from finch_hub.artifacts.store import ArtifactStore

STEP = {"state.json": b"{}", "state.safetensors": bytes(range(256)) * 40}


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}-{os.urandom(4).hex()}"
    return ArtifactStore(url, cache=tmp_path / "cache")


def write(folder: Path, files: dict[str, bytes] = STEP) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def put(store: ArtifactStore, tmp_path: Path, fence: int, step: int, *, job: str = "job") -> None:
    checkpoint = write(tmp_path / "work" / str(fence) / f"step-{step:08d}")
    checkpoints.put(store, job, fence, checkpoint, archive=tmp_path / "archive.tar")
    assert not (tmp_path / "archive.tar").exists()
    shutil.rmtree(checkpoint)


def fetch(store: ArtifactStore, folder: Path, *, after: int = 0, before: int = 9) -> list[str]:
    checkpoints.fetch(store, "job", folder, after=after, before=before)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def put_archive(store: ArtifactStore, file: Path, fence: int, *members: tarfile.TarInfo) -> None:
    """Store an archive that no attempt makes."""
    with tarfile.open(file, "w") as packed:
        for member in members:
            packed.addfile(member, io.BytesIO(b"x" * member.size))
    store.put_named(f"checkpoints/job-{fence}", file)
    file.unlink()


def member(name: str, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in values.items():
        setattr(made, field, value)
    return made


def test_checkpoint_is_fetched_with_its_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, tmp_path, 1, 30)
    assert fetch(store, tmp_path / "new") == ["step-00000030"]
    found = {path.name: path.read_bytes() for path in (tmp_path / "new" / "step-00000030").iterdir()}
    assert found == STEP
    assert [path.name for path in (tmp_path / "new").parent.glob("*.tar")] == []


def test_storing_and_fetching_tell_the_bytes(
    store: ArtifactStore, tmp_path: Path, told: list[progress.Advance]
) -> None:
    """Otherwise a large checkpoint that comes slowly is taken for one that hangs."""
    checkpoint = write(tmp_path / "step-00000030", {"state.safetensors": bytes(3_000_000)})
    checkpoints.put(store, "job", 1, checkpoint, archive=tmp_path / "archive.tar")
    assert fetch(store, tmp_path / "new") == ["step-00000030"]
    assert {"MB stored", "MB fetched"} <= {advance.work for advance in told}


def test_newest_checkpoint_replaces_that_of_the_attempt_and_of_earlier_ones(
    store: ArtifactStore, tmp_path: Path
) -> None:
    put(store, tmp_path, 1, 30)
    put(store, tmp_path, 1, 40)
    assert store.list_named("checkpoints") == ["job-1"]
    put(store, tmp_path, 12, 50)
    put(store, tmp_path, 1, 10, job="job-2")
    assert store.list_named("checkpoints") == ["job-12", "job-2-1"]
    assert fetch(store, tmp_path / "new", before=13) == ["step-00000050"]


def test_attempt_that_was_given_up_leaves_its_successors_checkpoint_alone(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, tmp_path, 2, 50)
    put(store, tmp_path, 1, 90)
    assert store.list_named("checkpoints") == ["job-1", "job-2"]
    assert fetch(store, tmp_path / "new") == ["step-00000050"]
    put(store, tmp_path, 3, 60)
    assert store.list_named("checkpoints") == ["job-3"]


@pytest.mark.parametrize(("after", "before"), [(2, 9), (0, 2)])
def test_checkpoint_of_an_attempt_that_is_at_hand_or_later_is_not_fetched(
    after: int, before: int, store: ArtifactStore, tmp_path: Path
) -> None:
    put(store, tmp_path, 2, 50)
    assert fetch(store, tmp_path / "new", after=after, before=before) == []


def test_fetched_checkpoint_joins_those_at_hand(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, tmp_path, 2, 50)
    write(tmp_path / "new" / "step-00000070")
    assert fetch(store, tmp_path / "new") == ["step-00000050", "step-00000070"]
    write(tmp_path / "other" / "step-00000050", {"mine": b""})
    assert fetch(store, tmp_path / "other") == ["step-00000050"]
    assert [path.name for path in (tmp_path / "other" / "step-00000050").iterdir()] == ["mine"]


BROKEN = {
    "link": [member("step-1/state.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "path outside": [member("../state.json", size=3)],
    "absolute path": [member("/tmp/state.json", size=3)],
    "two checkpoints": [member("step-1/a", size=3), member("step-2/a", size=3)],
    "file beside": [member("state.json", size=3)],
    "folder inside": [member("step-1/a/b", size=3)],
    "file that is in it twice": [member("step-1/a", size=3), member("step-1/./a", size=3)],
    "nothing": [],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_archive_with_anything_else_is_refused_for_the_one_before(
    broken: str, store: ArtifactStore, tmp_path: Path
) -> None:
    put_archive(store, tmp_path / "made.tar", 2, *BROKEN[broken])
    with pytest.raises(errors.RefusedArtifact):
        fetch(store, tmp_path / "new")
    assert [*(tmp_path / "new").iterdir()] == []
    store.remove_named("checkpoints/job-2")
    put(store, tmp_path, 1, 30)
    put_archive(store, tmp_path / "made.tar", 2, *BROKEN[broken])
    assert fetch(store, tmp_path / "new") == ["step-00000030"]


def test_truncated_archive_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, tmp_path, 1, 30)
    store.fetch_named("checkpoints/job-1", tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:2000])
    store.put_named("checkpoints/job-1", tmp_path / "cut")
    with pytest.raises(errors.RefusedArtifact):
        fetch(store, tmp_path / "new")
    assert [*(tmp_path / "new").iterdir()] == []


@pytest.mark.parametrize("replace", [False, True])
def test_checkpoint_that_is_removed_while_it_is_read_is_not_stored(
    replace: bool, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write(tmp_path / "step-00000010")
    listed: Callable[[Path], object] = Path.iterdir

    def remove(path: Path) -> object:
        found = list(listed(path))  # type: ignore[call-overload]
        if path == checkpoint:
            checkpoint.rename(tmp_path / "aside")
            if replace:
                write(checkpoint)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", remove)
    with pytest.raises(FileNotFoundError):
        checkpoints.put(store, "job", 1, checkpoint, archive=tmp_path / "archive.tar")
    assert store.list_named("checkpoints") == []
    assert not (tmp_path / "archive.tar").exists()


def test_checkpoints_of_one_job_are_removed(store: ArtifactStore, tmp_path: Path) -> None:
    checkpoints.remove(store, "job")
    for job in ("job", "job-1", "other"):
        put(store, tmp_path, 1, 10, job=job)
    put(store, tmp_path, 2, 10, job="job-1")
    checkpoints.remove(store, "job")
    assert store.list_named(checkpoints.FOLDER) == ["job-1-2", "other-1"]
