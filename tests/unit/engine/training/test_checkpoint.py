from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from finch_hub import errors
from finch_hub.engine.training import checkpoint

IDENTITY = {"data": "a", "base": "b"}


def made(step: int, **changes: Any) -> checkpoint.Checkpoint:
    values: dict[str, Any] = {
        "step": step,
        "identity": IDENTITY,
        "state": {"step": step, "loss": 0.1 + step},
        "tensors": {"parameters": torch.arange(step + 3, dtype=torch.float32)},
    }
    return checkpoint.Checkpoint(**(values | changes))


def test_what_is_saved_comes_back_exactly(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(3), keep=2)
    found, damaged = checkpoint.newest(tmp_path, IDENTITY)
    assert found is not None
    assert not damaged
    assert (found.step, found.state) == (3, {"step": 3, "loss": 3.1})
    assert torch.equal(found.tensors["parameters"], torch.arange(6.0))


def test_the_newest_ones_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        checkpoint.save(tmp_path, made(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    checkpoint.save(tmp_path / "kept", made(3), keep=2)
    unfinished, final = ".unfinished-step-00000003", "step-00000003"
    assert done == ["state.safetensors", "state.json", unfinished, f"{unfinished} -> {final}", "kept"]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, IDENTITY) == (None, [])
    assert checkpoint.newest(tmp_path / "none", IDENTITY) == (None, [])


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_named(file: str, harm: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1), keep=2)
    path = checkpoint.save(tmp_path, made(2), keep=2) / file
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b"2.1") if file == "state.json" else len(data) - 2
        data[place] ^= 1
        path.write_bytes(data)
    found, damaged = checkpoint.newest(tmp_path, IDENTITY)
    assert found is not None
    assert found.step == 1
    assert len(damaged) == 1
    assert "step-00000002" in damaged[0]


def test_other_work_is_refused_by_what_changed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1), keep=2)
    with pytest.raises(errors.InvalidCheckpoint, match="data changed"):
        checkpoint.newest(tmp_path, {**IDENTITY, "data": "other"})


def test_a_full_disk_leaves_the_older_checkpoint_and_no_rest(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1), keep=1)
    large = made(2, tensors={"parameters": torch.zeros(1 << 18)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # writing past it fails as a full disk does
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save(tmp_path, large, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_rest_of_a_killed_write_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-step-00000001").mkdir()
    (tmp_path / ".unfinished-step-00000001" / "state.json").write_text("{")
    assert checkpoint.newest(tmp_path, IDENTITY) == (None, [])
    checkpoint.save(tmp_path, made(1), keep=1)
    checkpoint.save(tmp_path, made(1), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, made(1), keep=1)
    assert json.loads((path / "state.json").read_text())["identity"] == IDENTITY
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "state.safetensors"]
