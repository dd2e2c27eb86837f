"""Reserve of a home: taken when there is room, given back, and never a reason to fail."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from finch_hub.storage import disk_reserve


def test_reserve_takes_a_private_megabyte_until_it_is_released(tmp_path: Path) -> None:
    for _ in range(2):
        disk_reserve.fill(tmp_path)
        (file,) = tmp_path.iterdir()
        info = file.stat()
        assert (info.st_size, info.st_blocks * 512 >= 2**20, stat.S_IMODE(info.st_mode)) == (2**20, True, 0o600)
    disk_reserve.release(tmp_path)
    disk_reserve.release(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_reserve, "_LEAST_FREE", 2**63)
    disk_reserve.fill(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_used_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    disk_reserve.fill(tmp_path / "file")
    disk_reserve.release(tmp_path / "file")


def test_reserve_that_another_process_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage

    def write_behind(home: Path) -> object:
        (home / "reserve").write_bytes(b"of another process")
        return usage(home)

    monkeypatch.setattr(shutil, "disk_usage", write_behind)
    disk_reserve.fill(tmp_path)
    assert (tmp_path / "reserve").read_bytes() == b"of another process"
