"""Checkpoint files: complete or absent, and used only by the training that wrote them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch

from finch_hub import errors
from finch_hub.engine.training import checkpoint
from finch_hub.engine.training.resume_state import ResumeState, TrainingProgress

IDENTITY = {"data": "a", "base": "b"}


def state_at(step: int, *, size: int = 6) -> ResumeState:
    return ResumeState(
        progress=TrainingProgress(step=step, loss_sum=0.1 + step),
        optimizer={"parameters.0": torch.arange(size, dtype=torch.float32)},
        best_parameters=(torch.ones(2), torch.zeros(3)),
    )


def save(folder: Path, step: int, *, keep: int = 2, size: int = 6) -> Path:
    return checkpoint.save(folder, state_at(step, size=size), identity=IDENTITY, keep=keep)


def test_saved_state_is_loaded_exactly(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found, damaged = checkpoint.load_newest(tmp_path, IDENTITY)
    assert found is not None
    assert not damaged
    assert found.progress == state_at(3).progress
    assert found.optimizer.keys() == {"parameters.0"}
    assert torch.equal(found.optimizer["parameters.0"], torch.arange(6.0))
    assert [tensor.tolist() for tensor in found.best_parameters] == [[1.0, 1.0], [0.0, 0.0, 0.0]]


def test_save_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


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
    assert checkpoint.load_newest(tmp_path, IDENTITY) == (None, [])
    assert checkpoint.load_newest(tmp_path / "none", IDENTITY) == (None, [])


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
    found, damaged = checkpoint.load_newest(tmp_path, IDENTITY)
    assert found is not None
    assert found.progress.step == 1
    assert len(damaged) == 1
    assert "step-00000002" in damaged[0]


def test_load_newest_refuses_a_different_training_and_names_the_change(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(errors.InvalidCheckpoint, match="data changed"):
        checkpoint.load_newest(tmp_path, {**IDENTITY, "data": "other"})


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
    assert checkpoint.load_newest(tmp_path, IDENTITY) == (None, [])
    save(tmp_path, 1, keep=1)
    save(tmp_path, 1, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_checkpoint_has_tensors_and_plain_json(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert json.loads((path / "state.json").read_text())["identity"] == IDENTITY
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
