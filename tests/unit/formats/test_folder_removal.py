"""Removal of folders: whole, or as a folder that the next collection removes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finch_hub.formats.atomic_writes import list_abandoned
from finch_hub.formats.folder_removal import measure_folder, remove_folder


def make(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "egg").write_bytes(bytes(100))
    (folder / "inner" / "same").hardlink_to(folder / "inner" / "egg")
    (folder / "feather").write_bytes(bytes(10))
    return folder


def test_removal_returns_the_bytes_of_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "nest")
    assert measure_folder(folder) == remove_folder(folder) == 110
    assert list(tmp_path.iterdir()) == []
    assert remove_folder(folder) == 0


def test_removal_that_is_interrupted_leaves_no_half_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion would take the half for the converted model."""
    folder = make(tmp_path / "gguf-0123")

    def interrupt(path: Path) -> None:
        (path / "feather").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    assert not folder.exists()
    (abandoned,) = list_abandoned(tmp_path)
    with abandoned as left:
        assert (left / "inner" / "egg").exists()
