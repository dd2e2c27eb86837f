"""Permissions: other users see nothing of the home, and what users wrote elsewhere has those of the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from finch_hub import Hub, settings
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.formats.atomic_writes import atomic_file, atomic_folder
from finch_hub.formats.finch_record import write_record

PAIRS = [(f"What does finch {number} eat?", "It eats seeds.") for number in range(12)]


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    paths = [folder, *folder.rglob("*")]
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o077, 0o000], ids=oct, indirect=True)  # each trains
def test_nothing_in_the_home_is_for_others(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    with Hub() as hub:
        job = hub.train(PAIRS, adapter="birds", base=tiny_folder, epochs=1, rank=4, threads=1)
        job.result()
        hub.adapters.folder("birds")
        hub.export("birds", tmp_path / "exported").result()
        direct = {path: stat.S_IMODE(path.lstat().st_mode) for path in hub.settings.home.iterdir()}
        kept = [modes(hub.settings.home / name) for name in ("artifacts", "cache/artifacts")]
        hub.workers.stop_own()
    assert {path.name: oct(mode) for path, mode in direct.items() if mode & 0o077} == {}
    for found in kept:
        assert {path: oct(mode) for path, mode in found.items() if mode & 0o077} == {}
    for path, mode in modes(tmp_path / "exported").items():
        assert mode == (0o777 if Path(path).is_dir() else 0o666) & ~umask, path


def test_folder_has_the_permissions_of_the_umask_whatever_was_copied(tmp_path: Path, umask: int) -> None:
    for number, mode in enumerate((0o400, 0o444, 0o600, 0o755, 0o777)):
        with atomic_folder(tmp_path / str(number), kind="export") as folder:
            (folder / "sub").mkdir(mode=0o700)
            for file in (folder / "a", folder / "sub" / "b"):
                file.touch()
                file.chmod(mode)
            write_record(folder, "export", {})
        for path, found in modes(tmp_path / str(number)).items():
            assert found == (0o777 if Path(path).is_dir() else 0o666) & ~umask
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
    with atomic_file(tmp_path / "secret", is_private=True) as temporary:
        temporary.write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_store_outside_the_home_has_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    shared = tmp_path / "shared"
    ArtifactStore(str(shared), cache=tmp_path / "cache").put(b"data")
    for path, mode in modes(shared).items():
        assert mode == (0o777 if Path(path).is_dir() else 0o666) & ~umask
    private = tmp_path / "private"
    ArtifactStore(str(private), cache=tmp_path / "cache", is_private=True).put(b"data")
    assert {mode & 0o077 for mode in modes(private).values()} == {0}


def test_backup_keeps_other_users_out(tmp_path: Path, umask: int) -> None:
    with Hub(settings.load(home=tmp_path / "home", broker_url="redis://127.0.0.1:1/0")) as hub:
        hub.datasets.add(PAIRS, name="birds")
        hub.back_up(tmp_path / "backup")
    assert {path: oct(mode) for path, mode in modes(tmp_path / "backup").items() if mode & 0o077} == {}
