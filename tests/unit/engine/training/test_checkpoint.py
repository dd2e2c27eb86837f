"""Checkpoint files: complete or absent, and used only by the training that wrote them."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finch_hub.engine.training import checkpoint
from finch_hub.engine.training.resume_state import ResumeState, TrainingProgress

IDENTITY = {"data": "a", "base": "b"}
ENVIRONMENT: dict[str, str | int] = {"torch": "2.13.0", "threads": 2}


def state_at(step: int, *, size: int = 6) -> ResumeState:
    return ResumeState(
        progress=TrainingProgress(step=step, loss_sum=0.1 + step),
        optimizer={"parameters.0": torch.arange(size, dtype=torch.float32)},
        best_parameters=(torch.ones(2), torch.zeros(3)),
    )


def save(folder: Path, step: int, *, keep: int = 2, size: int = 6) -> Path:
    return checkpoint.save(folder, state_at(step, size=size), identity=IDENTITY, environment=ENVIRONMENT, keep=keep)


def load(folder: Path, **changes: Any) -> checkpoint.Found:
    return checkpoint.load_newest(folder, **{"identity": IDENTITY, "environment": ENVIRONMENT, **changes})


def test_saved_state_is_loaded_exactly(tmp_path: Path) -> None:
    save(tmp_path, 3)
    loaded = load(tmp_path)
    found = loaded.state
    assert found is not None
    assert [*loaded.damaged, *loaded.changed, loaded.difference] == [""]
    assert found.progress == state_at(3).progress
    assert found.optimizer.keys() == {"parameters.0"}
    assert torch.equal(found.optimizer["parameters.0"], torch.arange(6.0))
    assert [tensor.tolist() for tensor in found.best_parameters] == [[1.0, 1.0], [0.0, 0.0, 0.0]]


def test_save_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_removed_checkpoint_disappears_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies it meanwhile sees all files or none."""
    seen: list[list[str]] = []
    remove = shutil.rmtree

    def look(path: Path, **options: Any) -> None:
        seen.append(sorted(found.name for found in tmp_path.glob("step-*")))
        remove(path, **options)

    save(tmp_path, 1, keep=1)
    monkeypatch.setattr(shutil, "rmtree", look)
    save(tmp_path, 2, keep=1)
    assert seen[-1] == ["step-00000002"]
    checkpoint.discard(tmp_path)
    assert seen[-1] == []
    assert [*tmp_path.iterdir()] == []


def test_save_syncs_the_files_before_the_final_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"{path.name} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    save(tmp_path / "kept", 3)
    unfinished, final = ".unfinished-step-00000003", "step-00000003"
    assert done == ["state.safetensors", "state.json", unfinished, f"{unfinished} -> {final}", "kept"]


def test_load_newest_of_an_empty_or_missing_folder_returns_none(tmp_path: Path) -> None:
    assert load(tmp_path).state is None
    assert load(tmp_path / "none").state is None


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "missing"])
def test_load_newest_skips_a_damaged_checkpoint_and_names_it(file: str, harm: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b"2.1") if file == "state.json" else len(data) - 2
        data[place] ^= 1
        path.write_bytes(data)
    found = load(tmp_path)
    assert found.state is not None
    assert found.state.progress.step == 1
    assert len(found.damaged) == 1
    assert "step-00000002" in found.damaged[0]


def test_load_newest_returns_no_state_of_a_different_training_and_names_the_change(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = load(tmp_path, identity={**IDENTITY, "data": "other"})
    assert (found.state, found.changed) == (None, ["data"])


def test_state_from_another_environment_says_so(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = load(tmp_path, environment={**ENVIRONMENT, "threads": 4})
    assert found.state is not None
    assert found.difference == "threads 2 -> 4"
    assert found.state.progress.continued == ("after step 1: threads 2 -> 4",)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a checkpoint as another version might have written it, with a right hash."""
    body = json.loads((path / "state.json").read_text())
    del body["sha256"]
    change(body)
    body["sha256"] = checkpoint._hash(body)
    (path / "state.json").write_text(json.dumps(body))


@pytest.mark.parametrize("is_same", [True, False])
def test_checkpoint_of_an_older_version_has_a_hash_of_its_environment(is_same: bool, tmp_path: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        environment = body.pop("environment")
        body["identity"]["environment"] = checkpoint._hash({**environment, "threads": 2 if is_same else 8})

    rewrite(save(tmp_path, 1), change)
    found = load(tmp_path)
    assert found.state is not None
    assert not found.changed
    assert found.difference == ("" if is_same else "threads unknown -> 2, torch unknown -> 2.13.0")


def test_state_that_this_version_cannot_read_is_skipped(tmp_path: Path) -> None:
    save(tmp_path, 1)
    rewrite(save(tmp_path, 2), lambda body: body["state"].update(invented=1))
    found = load(tmp_path)
    assert found.state is not None
    assert found.state.progress.step == 1
    assert "invented" in found.damaged[0]


def test_a_full_disk_leaves_the_older_checkpoint_and_no_temporary_files(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # writing past it fails as a full disk does
    try:
        with pytest.raises(OSError, match="too large"):
            save(tmp_path, 2, keep=1, size=1 << 18)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_save_replaces_the_temporary_files_of_a_killed_write(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-step-00000001").mkdir()
    (tmp_path / ".unfinished-step-00000001" / "state.json").write_text("{")
    assert load(tmp_path).state is None
    save(tmp_path, 1, keep=1)
    save(tmp_path, 1, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_checkpoint_has_tensors_and_plain_json(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert json.loads((path / "state.json").read_text())["identity"] == IDENTITY
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
